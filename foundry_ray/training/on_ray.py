"""Attempts of groups of Ray Train workers: how large each is, what stops it, and when the next one starts.

Looks at the cluster while a group runs: a node of the group that is to go, or room for more workers, and it is asked to save and stop. Where
too few workers fit, Ray waits for them, within a bound, and an autoscaler sees what is wanted. Nothing here imports Ray: `group` does, and what it
does is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from foundry_ray.config import Settings, TeacherConfig
from foundry_ray.errors import StoreError
from foundry_ray.protocols import Clock, Reporter
from foundry_ray.training import elastic
from foundry_ray.training.attempts import Ledger, in_thread, work_name
from foundry_ray.training.checkpoint import progress_key
from foundry_ray.training.elastic import MemoryLimit
from foundry_ray.training.failures import FailureKind, RankFailure
from foundry_ray.training.preemption import Ask, ask, ask_key, forget, is_announced
from foundry_ray.training.progress import Listener
from foundry_ray.training.rank import Attempt, RankJob
from foundry_ray.training.scratch import Scratch, scratch_for
from foundry_ray.training.shape import usable_workers

RunGroup = Callable[[RankJob, Attempt, Scratch], tuple[RankFailure, ...]]
"""Runs one group to its end and says how its ranks failed: `group.run_group`."""

_LOOK_EVERY_S = 3.0
_NODE_DEATH_S = 30.0
"""Ray takes a node for dead after five unanswered looks, 3 s apart."""


class RaySession(Protocol):
    """What training asks of a connected Ray session."""

    def resources(self) -> Mapping[str, float]:
        """What the cluster has."""

    def require(self, requested: Mapping[str, float], what: str) -> None:
        """Raises ResourcesUnavailable where it can never fit."""

    def is_here(self) -> bool:
        """Whether all its nodes are this machine."""

    def nodes(self) -> Mapping[str, Mapping[str, float]]:
        """What each living node offers, by its id; not those that are to be taken away."""

    def free(self) -> Mapping[str, Mapping[str, float]]:
        """What nobody uses now on each living node, by its id; not those that are to be taken away."""

    def draining(self) -> frozenset[str]:
        """Ids of the nodes that are to be taken away."""


class OnRay:
    """A training's groups.

    Args:
        job: What is trained.
        session: Where.
        listener: Hears the workers.
        settings: `home` holds Ray's scratch, where all workers are on this machine.
        reporter: Told what was restarted, and why.
        clock: Time.
        limit: What earlier runs have learnt about memory.
        run_group: Runs a group.

    Raises:
        ResourcesUnavailable: The least workers that may train can never be placed.
    """

    def __init__(
        self,
        job: RankJob,
        session: RaySession,
        listener: Listener,
        *,
        settings: Settings,
        reporter: Reporter,
        clock: Clock,
        limit: MemoryLimit,
        run_group: RunGroup,
    ) -> None:
        self._job = job
        self._session = session
        self._listener = listener
        self._reporter = reporter
        self._clock = clock
        self._run_group = run_group
        self._ledger = Ledger(job=job, reporter=reporter, limit=limit)
        self._use_gpu = wants_gpu(job.config, session, reporter)
        self._request = elastic.request_of(job.config, use_gpu=self._use_gpu)
        self._scratch = scratch_for(job.store, settings.home, is_here=session.is_here())
        least = job.config.min_workers or job.config.workers
        key = "teacher.workers" if job.config.min_workers is None else "teacher.min_workers"
        session.require({name: amount * least for name, amount in self._request.items()}, key)

    def train(self, *, called_s: float) -> None:
        """Start groups until one gets to the end.

        Args:
            called_s: When the first was wanted, by the monotonic clock.

        Raises:
            FoundryError: As `failures` decides.
            ResourcesUnavailable: No group could be placed within `teacher.start_timeout_s`.
        """
        clock, waiting_since_s = self._clock, None
        self._scratch.clear(f"train-{work_name(self._job)}-")  # of killed drivers: whoever gets here holds the stage's lease
        while True:
            attempt = self._ledger.attempt(self._num_workers(is_crowded=waiting_since_s is not None), use_gpu=self._use_gpu)
            started_s = clock.monotonic_s()
            failed, asked, nodes = self._run(replace(attempt, phases={"driver": started_s - called_s}, called_at_s=clock.now_s()))
            if not failed:
                return
            called_s = clock.monotonic_s()
            if all(one.kind is FailureKind.NOT_STARTED for one in failed):
                waiting_since_s = started_s if waiting_since_s is None else waiting_since_s
                self._still_waiting(called_s - waiting_since_s, attempt)
            else:
                waiting_since_s = None
                self._ledger.failed(attempt, self._explained(failed, nodes), asked)

    def _num_workers(self, *, is_crowded: bool) -> int:
        """As many as fit; where none do, the least that may train."""
        config = self._job.config
        num_fit = elastic.num_fitting(self._session.nodes().values(), self._request)
        if is_crowded:
            num_fit = min(num_fit, self._num_free())
        return usable_workers(config, num_fit) or config.min_workers or config.workers

    def _num_free(self) -> int:
        return elastic.num_fitting(self._session.free().values(), self._request)

    def _still_waiting(self, waited_s: float, attempt: Attempt) -> None:
        config, num_fit = self._job.config, self._num_free()
        if waited_s >= config.start_timeout_s:
            raise elastic.too_few(config, self._request, num_fit=num_fit, waited_s=waited_s)
        self._reporter.warn(
            f"{attempt.shape.num_workers} workers could not be placed: what is free on the cluster holds {num_fit}. "
            f"Training waits for {config.start_timeout_s:.0f} s at most (`teacher.start_timeout_s`)."
        )

    def _explained(self, failed: tuple[RankFailure, ...], nodes: frozenset[str]) -> tuple[RankFailure, ...]:
        """Where all that is known is that a peer is gone, and the group was on several nodes: wait until Ray has noticed whether one of them is."""
        deadline_s = self._clock.monotonic_s() + _NODE_DEATH_S
        if len(nodes) > 1 and all(one.is_witness for one in failed):
            while self._clock.monotonic_s() < deadline_s:
                if gone := nodes - self._session.nodes().keys():
                    return (*failed, RankFailure(rank=-1, kind=FailureKind.LOST_NODE, text=f"{min(gone)[:12]} answers no more"))
                self._clock.sleep(1.0)
        return failed

    def _run(self, attempt: Attempt) -> tuple[tuple[RankFailure, ...], Ask, frozenset[str]]:
        """One group, from its start to its end: how it failed, what was asked of it, and where it was."""
        job, listener = self._job, self._listener
        watch = _Watch(attempt, job, self._session, listener, request=self._request, clock=self._clock)
        failed: list[tuple[RankFailure, ...]] = []

        def work() -> None:
            failed.append(self._run_group(job, attempt, self._scratch))

        def leave() -> bool:
            watch.ask(Ask.LEAVE)
            return listener.has_started

        try:
            in_thread(work, name=f"train-{attempt.name}", meanwhile=watch.look, leave=leave)
            watch.hear()
        finally:
            if failed:
                forget(job.store, watch.key)
        return failed[0], watch.asked, watch.nodes


class _Watch:
    """Looks after one group while it runs.

    Attributes:
        asked: What was asked of it.
        nodes: Where its ranks run, as far as they have said.
        key: Where that lies.
    """

    def __init__(
        self, attempt: Attempt, job: RankJob, session: RaySession, listener: Listener, *, request: Mapping[str, float], clock: Clock
    ) -> None:
        self.asked = Ask.NOTHING
        self.nodes: frozenset[str] = frozenset()
        self.key = ask_key(progress_key(job.stage_key), attempt.name)
        self._attempt = attempt
        self._job = job
        self._session = session
        self._listener = listener
        self._request = request
        self._clock = clock
        self._next_s = clock.monotonic_s()
        self._running_since_s: float | None = None

    def ask(self, what: Ask) -> None:
        """Ask the group to stop; where the store does not answer, the next look asks again."""
        with suppress(StoreError):
            ask(self._job.store, self.key, what)
            self.asked = what

    def hear(self) -> None:
        """Pass on what the workers say."""
        self._listener.listen(self._attempt.name)
        self.nodes |= frozenset(self._listener.nodes)

    def look(self) -> None:
        """Hear the workers, and stop them where nodes come or go."""
        self.hear()
        now_s = self._clock.monotonic_s()
        if self._listener.has_started and self._running_since_s is None:
            self._running_since_s = now_s
        if self.asked is Ask.NOTHING and now_s >= self._next_s:
            self._next_s = now_s + _LOOK_EVERY_S
            wanted = self._wanted(now_s)
            if wanted is not Ask.NOTHING:
                self.ask(wanted)

    def _wanted(self, now_s: float) -> Ask:
        if is_announced(self._session.draining(), self.nodes):
            return Ask.PREEMPTED
        config, num_workers = self._job.config, self._attempt.shape.num_workers
        if self._running_since_s is None or num_workers >= config.workers:
            return Ask.NOTHING
        more = elastic.larger(
            config,
            num_workers=num_workers,
            num_fit=elastic.num_fitting(self._session.nodes().values(), self._request),
            num_free=elastic.num_fitting(self._session.free().values(), self._request),
            running_s=now_s - self._running_since_s,
        )
        return Ask.NOTHING if more is None else Ask.RESIZE


def wants_gpu(config: TeacherConfig, session: RaySession, reporter: Reporter) -> bool:
    """Whether workers get GPUs: where there are enough for the least that may train. A fallback is told."""
    least = config.min_workers or config.workers
    num_gpus, wanted = session.resources().get("GPU", 0.0), least * config.gpus_per_worker
    if config.use_gpu == "auto" and 0 < num_gpus < wanted:
        reporter.warn(f"teacher.use_gpu is auto: {num_gpus:g} GPUs are too few for {least} workers, so they train on CPUs.")
    return config.use_gpu is True or (config.use_gpu == "auto" and num_gpus >= wanted)
