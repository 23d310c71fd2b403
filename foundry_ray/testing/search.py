"""Studies without training: a trial runner with synthetic learning curves, an executor in simulated time, a recorded latency meter."""

from __future__ import annotations

import heapq
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from foundry_ray.clock import SystemClock
from foundry_ray.config import BudgetConfig, SchedulerConfig
from foundry_ray.protocols import ArtifactStore, Reporter
from foundry_ray.search.coordinator import Coordinator, Rules
from foundry_ray.search.events import Event, Job
from foundry_ray.search.journal import Journal
from foundry_ray.search.policy import parse_policy
from foundry_ray.search.sampler import Sampler
from foundry_ray.search.state import StudyState
from foundry_ray.testing.clock import FakeClock
from foundry_ray.types import CompressionRecipe, LatencyResult, Objective, Param, Scalar, SearchSpace, Trial, canonical_sha256

Run = Callable[[Job], Iterator[Event]]


class RecordedLatencyMeter:
    """Answers with what is written down: `p50_ms` as a function of the graph's bytes. Counts its measurements."""

    def __init__(self, p50_ms: Callable[[bytes], float] = lambda onnx: len(onnx) / 1e5) -> None:
        self._p50_ms = p50_ms
        self.num_measured = 0

    def measure(self, onnx: bytes, *, batch_size: int) -> LatencyResult:
        self.num_measured += 1
        value = self._p50_ms(onnx)
        return LatencyResult(
            graph_sha256=canonical_sha256(len(onnx)),
            device=self.device_fingerprint(),
            runtime="recorded",
            threads=1,
            batch_size=batch_size,
            p50_ms=value,
            p95_ms=1.1 * value,
            ci_ms=(value, value),
            n=1,
        )

    def device_fingerprint(self) -> str:
        return "recorded"


def synthetic_curve(params: Mapping[str, Scalar], epoch: int) -> dict[str, float]:
    """A student's metrics after `epoch` epochs: wider is better and slower, and the best `lr` is 0.003."""
    width, lr = float(params["width"]), float(params["lr"])
    ceiling = 1.0 - 0.3 / width - 0.02 * math.log10(lr / 3e-3) ** 2
    return {"accuracy": round(ceiling * (1 - 0.5 * math.exp(-epoch / 2)), 6)}


def synthetic_cost(params: Mapping[str, Scalar]) -> dict[str, float]:
    """What is known of such a student before it is trained."""
    width = float(params["width"])
    return {"num_params": 100 * width**2, "size_bytes": 110 * width**2, "latency_p50_ms": round(0.02 * width, 6)}


@dataclass(slots=True)
class SyntheticRunner:
    """Runs jobs on synthetic curves. Trains one epoch per yielded event.

    Attributes:
        max_params: A hard limit on `num_params`, checked before the first epoch.
        epochs_trained: Epochs by trial number.
    """

    max_params: float = math.inf
    epochs_trained: dict[int, int] = field(default_factory=dict)

    def __call__(self, job: Job) -> Iterator[Event]:
        cost = synthetic_cost(job.params)
        if not job.known:
            if cost["num_params"] > self.max_params:
                excess = cost["num_params"] / self.max_params - 1
                yield Event(kind="infeasible", number=job.number, values=cost, excess=excess, error=f"num_params is {cost['num_params']:g}")
                return
            yield Event(kind="prepared", number=job.number, values=cost, effective=canonical_sha256(dict(job.params)))
        curve: list[Mapping[str, float]] = []
        for epoch in range(job.from_epoch + 1, job.to_epoch + 1):
            self.epochs_trained[job.number] = self.epochs_trained.get(job.number, 0) + 1
            curve.append({"epoch": float(epoch), **synthetic_curve(job.params, epoch)})
            yield Event(kind="epoch", number=job.number, epoch=epoch, values=curve[-1])
        yield Event(
            kind="rung",
            number=job.number,
            rung=job.rung,
            epoch=job.to_epoch,
            values=synthetic_curve(job.params, job.to_epoch),
            curve=tuple(curve),
            checkpoint=f"checkpoints/{job.number}/{job.to_epoch}",
            duration_s=float(job.to_epoch - job.from_epoch),
        )


class SerialExecutor:
    """Drives a coordinator with `num_slots` simulated workers; each event of a job takes `event_s` of the clock.

    Args:
        budget: Events after which the driver is "killed": `run` returns as if the process had ended there.
    """

    def __init__(self, run: Run, *, clock: FakeClock, num_slots: int = 1, event_s: float = 1.0, budget: int | None = None) -> None:
        self._run = run
        self._clock = clock
        self._num_slots = num_slots
        self._event_s = event_s
        self._budget = budget

    def run(self, coordinator: Coordinator) -> None:
        """Until the coordinator has nothing left, or the budget of events is spent."""
        running: list[tuple[float, int, Iterator[Event]]] = []
        num_events = num_jobs = 0
        while True:
            while len(running) < self._num_slots and (job := coordinator.next_job()) is not None:
                heapq.heappush(running, (self._clock.monotonic_s() + self._event_s, num_jobs, self._run(job)))
                num_jobs += 1
            if not running:
                return
            due_s, rank, events = heapq.heappop(running)
            self._clock.advance(max(0.0, due_s - self._clock.monotonic_s()))
            if self._budget is not None and num_events >= self._budget:
                return
            num_events += 1
            if coordinator.observe(next(events)):
                heapq.heappush(running, (due_s + self._event_s, rank, events))


OBJECTIVES = (
    Objective(metric="accuracy", mode="max"),
    Objective(metric="latency_p50_ms", mode="min"),
    Objective(metric="size_bytes", mode="min"),
)
SPACE = SearchSpace(
    params=(Param(name="lr", kind="float", low=5e-4, high=1e-2, log=True), Param(name="width", kind="int", low=6, high=20, step=2)),
    objectives=OBJECTIVES,
)
JOURNAL = "studies/one/journal"


@dataclass
class SyntheticStudy:
    """One driver's view of a study on synthetic curves, in a store that may hold an earlier driver's events.

    Attributes:
        driver: Identity of this driver; another one for each attempt.
        events: Everything that the coordinator made known.
    """

    store: ArtifactStore
    num_trials: int = 16
    sampler: Literal["tpe", "random", "nsga2"] = "tpe"
    seed: int = 0
    space: SearchSpace = SPACE
    driver: str = "driver-1"
    max_failures: int = 1
    kind: Literal["asha", "none"] = "asha"
    runner: SyntheticRunner = field(default_factory=SyntheticRunner)
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        scheduler = SchedulerConfig(kind=self.kind)
        num_rungs = 3 if self.kind == "asha" else 1
        self.state = StudyState(recipe_of=lambda params: CompressionRecipe(), num_rungs=num_rungs, max_failures=self.max_failures)
        self.journal = Journal(self.store, JOURNAL, driver=self.driver)
        self.state.replay(self.journal.open())
        self.rules = Rules(
            scheduler=scheduler,
            budget=BudgetConfig(trials=self.num_trials),
            sampler=Sampler(kind=self.sampler, space=self.space, objectives=OBJECTIVES, seed=self.seed),
            policy=parse_policy("fastest within 1.0 point of the teacher"),
            teacher_accuracy=0.97,
            trial_seed=7,
        )
        self.events: list[Event] = []
        self.coordinator = Coordinator(self.rules, state=self.state, journal=self.journal, clock=self.clock, on_change=self.events.append)

    def run(self, *, num_slots: int = 1, budget: int | None = None) -> list[Trial]:
        """Run to the end, or until `budget` events were seen, as if the driver had died then."""
        SerialExecutor(self.runner, clock=self.clock, num_slots=num_slots, budget=budget).run(self.coordinator)
        if budget is None:
            self.coordinator.close()
        return self.state.trials()


@dataclass(frozen=True, slots=True)
class SyntheticEnvironment:
    """Synthetic trials for real actors. Picklable.

    Attributes:
        event_s: Real time that each event takes.
        victim: The trial whose process dies once (kill -9) after its first event, where `mark` is not there yet.
        mark: A file that the victim leaves behind.
    """

    event_s: float = 0.0
    victim: int = -1
    mark: Path | None = None

    def runner(self, reporter: Reporter) -> Run:
        """See `tune_adapter.Environment`."""
        run, clock = SyntheticRunner(), SystemClock()

        def slowly(job: Job) -> Iterator[Event]:
            for event in run(job):
                clock.sleep(self.event_s)
                yield event
                if self.mark is not None and job.number == self.victim and not self.mark.exists():
                    self.mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)

        return slowly
