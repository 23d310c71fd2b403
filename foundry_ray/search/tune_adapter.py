"""Ray Tune as the executor of jobs: one Tune trial is one job of ours, in a warm actor that lives through many.

Tune starts actors, keeps them busy and notices when they die. What runs next and what a result means is asked of the coordinator, in the
driver. Tune's own snapshots are scratch; nothing is ever restored from them.
"""

from __future__ import annotations

import io
import json
import logging
import math
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from foundry_ray.clock import SystemClock
from foundry_ray.protocols import Reporter
from foundry_ray.search.coordinator import Coordinator
from foundry_ray.search.events import Event, Job, event_from_json
from foundry_ray.types import from_json, to_json

T = TypeVar("T")
_ERROR_LINES = 3
_START_TIMEOUT_S = 30.0
_IDLE_S = 0.05


class Environment(Protocol):
    """What an actor needs to run jobs. Shipped once through the object store, so its arrays are shared and not copied."""

    def runner(self, reporter: Reporter) -> Callable[[Job], Iterator[Event]]:
        """Called once in each actor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """How many jobs run at once, and what each of them reserves."""

    count: int
    cpus: float
    gpus: float


def plan_slots(resources: Mapping[str, float]) -> Slots:
    """Fill the cluster with one-worker trials: a CPU each, and an equal share of a GPU (at most eight to one) where there are any."""
    cpus, gpus = int(resources.get("CPU", 0.0)), resources.get("GPU", 0.0)
    if gpus < 1:
        return Slots(count=max(1, cpus), cpus=1.0, gpus=0.0)
    per_gpu = max(1, min(8, int(cpus / gpus)))
    return Slots(count=max(1, min(cpus, math.floor(gpus) * per_gpu)), cpus=1.0, gpus=1.0 / per_gpu)


class TuneExecutor:
    """Runs a coordinator's jobs on the connected Ray cluster.

    Args:
        scratch: A local folder for what Tune insists on writing; removed at the end.
        reporter: Told of warnings from the actors.
    """

    def __init__(self, environment: Environment, *, slots: Slots, scratch: Path, reporter: Reporter) -> None:
        self._environment = environment
        self._slots = slots
        self._scratch = scratch
        self._reporter = reporter

    def num_slots(self) -> int:
        """How many jobs run at once."""
        return self._slots.count

    def run(self, coordinator: Coordinator) -> None:
        """Until nothing is left to do.

        Raises:
            FoundryError: What the coordinator raised in the driver, as it was.
        """
        bridge = _Bridge(coordinator, num_slots=self._slots.count, reporter=self._reporter)
        trainable = tune.with_resources(
            tune.with_parameters(JobTrainable, environment=self._environment), {"cpu": self._slots.cpus, "gpu": self._slots.gpus}
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_JobSearcher(bridge),
                scheduler=_JobScheduler(bridge),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="jobs", storage_path=str(self._scratch), verbose=0, checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)
            ),
        )
        try:
            with _silence("ray.tune", "ray.air"):
                tuner.fit()
        except Exception as error:  # process border: Tune wraps what its callbacks raise
            raise bridge.error or error from error
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
        if bridge.error is not None:
            raise bridge.error


class _Bridge:
    """Between Tune's trial ids and our numbers. Keeps the first error of the coordinator, which Tune would wrap or swallow."""

    def __init__(self, coordinator: Coordinator, *, num_slots: int, reporter: Reporter) -> None:
        self._coordinator = coordinator
        self._num_slots = num_slots
        self._reporter = reporter
        self._clock = SystemClock()
        self._numbers: dict[str, int] = {}
        self._starting: set[str] = set()
        self._idle_since_s: dict[str, float] = {}
        self._handed_over: deque[Job] = deque()
        self._may_have_job = True
        self.error: Exception | None = None

    def next_config(self, tune_id: str) -> dict[str, str] | str | None:
        """A job for a free actor, or for one to be started; `FINISHED` when there will be none any more."""
        if self._handed_over:
            job = self._handed_over.popleft()
        elif len(self._numbers) >= self._num_slots:
            return None
        else:
            found = self._next_job()
            if found is None:
                return None if self._coordinator.num_in_flight else str(Searcher.FINISHED)
            job = found
        self._numbers[tune_id] = job.number
        self._starting.add(tune_id)
        return {"job": json.dumps(to_json(job))}

    def goes_on(self, tune_id: str, result: Mapping[str, Any]) -> bool:
        """Whether the actor keeps its job, or waits in it for the next one."""
        self._starting.discard(tune_id)
        for message in json.loads(result["warnings"]):
            self._reporter.warn(message)
        if result["event"]:
            event = event_from_json(json.loads(result["event"]), what="result of a trial")
            if self._guarded(lambda: self._coordinator.observe(event)):
                return True
            self._may_have_job = True
            self._idle_since_s[tune_id] = self._clock.monotonic_s()
        return tune_id not in self._idle_since_s or self._stays_idle(tune_id)

    def died(self, tune_id: str, error: str) -> None:
        """The process is gone; if its job was over already, nothing is lost."""
        number = self._numbers.pop(tune_id)
        self._starting.discard(tune_id)
        self._may_have_job = True
        if self._idle_since_s.pop(tune_id, None) is None:
            self._reporter.warn(f"trial {number} lost its process: {error}")
            self._guarded(lambda: self._coordinator.died(number, error))

    def _stays_idle(self, tune_id: str) -> bool:
        """An actor is let go only to its next job, or at the end.

        Tune keeps one free actor at most and ends the others. And while one starts up, a free one is given its job and the one that
        starts is ended: where jobs are shorter than the start of a process, the second slot would never be used.
        """
        is_long = self._clock.monotonic_s() - self._idle_since_s[tune_id] > _START_TIMEOUT_S
        if self._starting and not is_long:
            return True
        job = self._next_job()
        if job is None and self._coordinator.num_in_flight:
            return True
        if job is not None:
            self._handed_over.append(job)
        del self._idle_since_s[tune_id], self._numbers[tune_id]
        return False

    def _next_job(self) -> Job | None:
        """Ask only where something happened since the last time that there was none."""
        job = self._guarded(self._coordinator.next_job) if self._may_have_job else None
        self._may_have_job = job is not None
        return job

    def _guarded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:
            self.error = self.error or error
            raise

    def __deepcopy__(self, memo: object) -> _Bridge:
        """Tune copies its searcher and scheduler; there is one coordinator all the same."""
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """Tune writes its searcher and scheduler to disk, from where nothing is ever restored."""
        return type(None), ()


class _JobSearcher(Searcher):  # type: ignore[misc]
    """Suggests the coordinator's next job; hands it the deaths."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, str] | str | None:
        return self._bridge.next_config(trial_id)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Ends were decided by the scheduler's answer or, for errors, told by it."""

    def save(self, checkpoint_path: str) -> None:
        """The journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing is restored from Tune's snapshots."""


class _JobScheduler(FIFOScheduler):  # type: ignore[misc]
    """Passes each result to the coordinator and stops the job where it says so."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def on_trial_result(self, tune_controller: object, trial: Any, result: Mapping[str, Any]) -> str:
        return str(TrialScheduler.CONTINUE if self._bridge.goes_on(trial.trial_id, result) else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: object, trial: Any) -> None:
        self._bridge.died(trial.trial_id, _last_lines(_error_of(trial)))


class JobTrainable(tune.Trainable):  # type: ignore[misc]
    """A warm actor: sets itself up once, then runs job after job, one event per step."""

    _events: Iterator[Event]
    _is_first: bool

    def setup(self, config: dict[str, str], *, environment: Environment) -> None:
        """See `tune.Trainable.setup`."""
        self._warnings = _Warnings()
        self._run = environment.runner(self._warnings)
        self._begin(config)

    def reset_config(self, new_config: dict[str, str]) -> bool:
        """See `tune.Trainable.reset_config`."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, str]:
        """The next event of the job, and the warnings since the last one, as JSON; first of all, and after the last event, no event."""
        is_first, self._is_first = self._is_first, False
        event = None if is_first else next(self._events, None)
        if event is None and not is_first:
            SystemClock().sleep(_IDLE_S)
        return {"event": json.dumps(event.to_json()) if event else "", "warnings": json.dumps(self._warnings.take())}

    def _begin(self, config: Mapping[str, str]) -> None:
        job = from_json(Job, json.loads(config["job"]), what="job")
        _forget(job.seed)
        self._is_first = True
        self._events = self._run(job)


def _forget(seed: int) -> None:
    """Put back what an earlier job may have left in this process: one thread, seeded generators, torch's global switches."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)


class _Warnings:
    """The reporter inside an actor: epochs travel as events, warnings with them."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Epochs are events already."""

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Epochs are events already."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Epochs are events already."""

    def warn(self, message: str) -> None:
        """Keep a message for the driver."""
        self._messages.append(message)

    def take(self) -> list[str]:
        """The messages since the last call."""
        taken, self._messages = self._messages, []
        return taken


def _error_of(trial: Any) -> str:
    path = Path(trial.error_file) if trial.error_file else None
    return path.read_text(encoding="utf-8") if path is not None and path.is_file() else "it left no error behind"


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-_ERROR_LINES:])


@contextmanager
def _silence(*names: str) -> Iterator[None]:
    """What Tune would log is told by our reporter, or is noise; what it prints at any verbosity would spoil the document on stdout."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
