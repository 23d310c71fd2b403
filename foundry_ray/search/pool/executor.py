"""Drives a coordinator with warm actors on the connected Ray cluster.

Decides: when an actor is started, given a job, replaced because it is worn or silent, or given up. What runs next, and what an event means, is
the coordinator's; a job is taken only when an actor is ready for it. Ray Tune is not under this: a trial of Tune costs 0.1 s of its controller, which
keeps one free actor at most, and all trials that ever were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayError

from foundry_ray.config import TrialConfig
from foundry_ray.errors import ClusterUnreachable, ResourcesUnavailable, SearchError
from foundry_ray.protocols import Clock, Reporter
from foundry_ray.search.coordinator import Coordinator
from foundry_ray.search.events import Job
from foundry_ray.search.pool.slots import Slots, as_planned, plan_on_nodes
from foundry_ray.search.pool.worker import Answer, Environment, Worker

_LOOK_EVERY_S = 5.0
_WAIT_S = 0.5
_SAY_AFTER_S = 10.0
_START_S = 600.0
_MAX_FAILED_STARTS = 3
_REST_S = 60.0
_ERROR_LINES = 3


@dataclass(slots=True, kw_only=True, eq=False)
class _Actor:
    """An actor as the driver sees it. `number` is of the trial that it is at; `first_bytes` its memory when it had done its first job."""

    handle: Any
    since_s: float
    is_ready: bool = False
    number: int | None = None
    num_jobs: int = 0
    first_bytes: int = 0


@dataclass(slots=True, kw_only=True)
class _Crew:
    """All actors: those that are being asked something, by the answer that is awaited, and those that are free."""

    awaited: dict[Any, _Actor] = field(default_factory=dict)
    idle: list[_Actor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.awaited) + len(self.idle)


class PoolExecutor:
    """Runs a coordinator's jobs.

    Args:
        environment: What an actor needs.
        trial: What one trial reserves, and when an actor is replaced.
        nodes: What each node offers now, by its id; asked again and again, so that nodes that come are used.
        reporter: Told of warnings from the actors, and of what is waited for.
    """

    def __init__(
        self,
        environment: Environment,
        trial: TrialConfig,
        *,
        nodes: Callable[[], Mapping[str, Mapping[str, float]]],
        clock: Clock,
        reporter: Reporter,
    ) -> None:
        self._environment = ray.put(environment)
        self._nodes = nodes
        self._clock = clock
        self._reporter = reporter
        self._crew = _Crew()
        self._num_failed_starts = 0
        self._rests_until_s = self._looked_s = float("-inf")
        self._fits = True
        self._slots = plan_on_nodes([*nodes().values()], trial)
        self._trial = as_planned(trial, self._slots)

    @property
    def slots(self) -> Slots:
        """How many jobs run at once, as of now, and what each reserves."""
        return self._slots

    def run(self, coordinator: Coordinator) -> None:
        """Until nothing is left to do.

        Raises:
            SearchError: No actor could be started.
            ClusterUnreachable: The cluster is gone.
            FoundryError: What the coordinator raised.
        """
        try:
            self._drive(coordinator)
        except (RayError, ConnectionError) as error:  # what actors raise is answered where they are heard
            message = f"the cluster does not answer any more: {_last_lines(str(error)) or type(error).__name__}"
            raise ClusterUnreachable(message, hint="the study is saved: `foundry resume` goes on with it, here or on another cluster.") from error
        finally:
            for actor in (*self._crew.idle, *self._crew.awaited.values()):
                with suppress(RayError):  # where the cluster is gone, so are they, and that error is the one to show
                    ray.kill(actor.handle)

    def _drive(self, coordinator: Coordinator) -> None:
        while coordinator.has_work():
            self._look(coordinator)
            self._staff(coordinator)
            self._hand_out(coordinator)
            if not self._crew.awaited:
                break
            for ref in ray.wait(list(self._crew.awaited), num_returns=1, timeout=_WAIT_S)[0]:
                self._hear(ref, coordinator)
            self._find_silent(coordinator)

    def _look(self, coordinator: Coordinator) -> None:
        """What the cluster has by now, and who waits for it."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        try:
            self._slots, self._fits = plan_on_nodes([*self._nodes().values()], self._trial), True
        except ResourcesUnavailable as error:  # nodes have gone; some may come back
            if self._fits:
                self._reporter.warn(f"no trial fits the cluster any more: {error.message}")
            self._fits = False
        late = [actor for actor in self._crew.awaited.values() if not actor.is_ready and now_s - actor.since_s >= _SAY_AFTER_S]
        if late:
            self._explain(late, now_s, coordinator)

    def _explain(self, late: list[_Actor], now_s: float, coordinator: Coordinator) -> None:
        """Say why actors do not start; to wait for room is no silence."""
        missing = self._missing()
        coordinator.say_waiting(missing or "a worker starts")
        if missing:
            for actor in late:
                actor.since_s = now_s - _SAY_AFTER_S

    def _staff(self, coordinator: Coordinator) -> None:
        """As many actors as there are slots, and no more than there are jobs to come."""
        if self._clock.monotonic_s() < self._rests_until_s and len(self._crew):
            return
        wanted = min(self._slots.count, coordinator.num_in_flight + coordinator.num_startable(self._slots.count))
        while len(self._crew) < wanted:
            handle = (
                ray.remote(Worker)
                .options(num_cpus=self._slots.cpus, num_gpus=self._slots.gpus, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD")
                .remote(self._environment)
            )
            self._ask(_Actor(handle=handle, since_s=self._clock.monotonic_s()), handle.greet)

    def _hand_out(self, coordinator: Coordinator) -> None:
        while self._crew.idle:
            job = coordinator.next_job()
            if job is None:
                return
            self._begin(self._crew.idle.pop(), job)

    def _begin(self, actor: _Actor, job: Job) -> None:
        actor.number = job.number
        actor.num_jobs += 1
        self._ask(actor, actor.handle.next, job)

    def _ask(self, actor: _Actor, method: Any, *arguments: object) -> None:
        actor.since_s = self._clock.monotonic_s()
        self._crew.awaited[method.remote(*arguments)] = actor

    def _hear(self, ref: Any, coordinator: Coordinator) -> None:
        actor = self._crew.awaited.pop(ref)
        try:
            answer: Answer = ray.get(ref, timeout=_WAIT_S * 60)
        except (RayError, GetTimeoutError) as error:
            self._lost(actor, _last_lines(str(error)), coordinator, is_out_of_memory=isinstance(error, OutOfMemoryError))
            return
        for message in answer.warnings:
            self._reporter.warn(message)
        if answer.error:
            self._lost(actor, answer.error, coordinator)
        elif answer.event is None:
            self._greeted(actor, answer, coordinator)
        elif coordinator.observe(answer.event):
            self._ask(actor, actor.handle.next, None)
        else:
            self._freed(actor, answer)

    def _greeted(self, actor: _Actor, answer: Answer, coordinator: Coordinator) -> None:
        actor.is_ready = True
        self._num_failed_starts = 0
        coordinator.on_device(answer.fingerprint)
        self._crew.idle.append(actor)

    def _freed(self, actor: _Actor, answer: Answer) -> None:
        """Its job is over: it is free, or, if it is worn, replaced."""
        actor.number = None
        actor.first_bytes = actor.first_bytes or answer.own_bytes
        grown_mb = (answer.own_bytes - actor.first_bytes) / 1e6
        if actor.num_jobs >= self._trial.recycle_after or grown_mb > self._trial.max_growth_mb:
            ray.kill(actor.handle)
        else:
            self._crew.idle.append(actor)

    def _lost(self, actor: _Actor, error: str, coordinator: Coordinator, *, is_out_of_memory: bool = False) -> None:
        ray.kill(actor.handle)
        if actor.number is not None:
            self._reporter.warn(f"trial {actor.number} lost its process: {error}")
            coordinator.died(actor.number, error, is_out_of_memory=is_out_of_memory)
        elif not actor.is_ready:
            self._not_started(error)

    def _not_started(self, error: str) -> None:
        """Three times in a row is the end of a study that nobody works at; otherwise those who do go on, and it is tried again after a while."""
        self._num_failed_starts += 1
        if self._num_failed_starts < _MAX_FAILED_STARTS:
            self._reporter.warn(f"a worker process could not start: {error}")
            return
        message = f"{self._num_failed_starts} worker processes in a row could not start, the last with: {error}."
        num_ready = sum(actor.is_ready for actor in (*self._crew.idle, *self._crew.awaited.values()))
        if not num_ready:
            raise SearchError(message, hint="`foundry doctor`.")
        self._reporter.warn(f"{message} The study goes on with the {num_ready} it has, and tries again in {_REST_S:.0f} s.")
        self._num_failed_starts, self._rests_until_s = 0, self._clock.monotonic_s() + _REST_S

    def _find_silent(self, coordinator: Coordinator) -> None:
        """Give up who has said nothing for too long."""
        now_s = self._clock.monotonic_s()
        for ref, actor in list(self._crew.awaited.items()):
            silent_s = now_s - actor.since_s
            if silent_s > (self._trial.silence_s if actor.is_ready else _START_S):
                del self._crew.awaited[ref]
                self._lost(actor, f"it said nothing for {silent_s:.0f} s", coordinator)

    def _missing(self) -> str:
        """What a worker waits for: what it takes, and what is free; empty where there is room for it."""
        free = ray.available_resources()
        wanted = {"CPU": self._slots.cpus, "GPU": self._slots.gpus}
        short = [f"{amount:g} {name} ({free.get(name, 0.0):g} free)" for name, amount in wanted.items() if amount > free.get(name, 0.0)]
        return f"a worker waits for {' and '.join(short)}" if short else ""


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-_ERROR_LINES:])
