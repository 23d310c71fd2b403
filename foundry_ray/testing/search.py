"""Studies without training: a trial runner with synthetic learning curves, a study on them, and a recorded latency meter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from foundry_ray.config import BudgetConfig, SchedulerConfig
from foundry_ray.protocols import ArtifactStore
from foundry_ray.search.events import Event, Job
from foundry_ray.search.opening import StudyPlace, open_study
from foundry_ray.search.policy import parse_policy
from foundry_ray.search.rules import Rules
from foundry_ray.search.samplers import Kind, Sampler
from foundry_ray.search.transfer import StudyIdentity
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.executors import SerialExecutor
from foundry_ray.testing.stores import MortalStore
from foundry_ray.types import CompressionRecipe, LatencyResult, Objective, Param, Scalar, SearchSpace, Trial, canonical_sha256

SchedulerKind = Literal["asha", "hyperband", "median", "pbt", "none"]


class RecordedLatencyMeter:
    """Answers with what is written down: `p50_ms` as a function of the graph's bytes. Counts its measurements."""

    def __init__(self, p50_ms: Callable[[bytes], float] = lambda onnx: len(onnx) / 1e5, *, device: str = "recorded") -> None:
        self._p50_ms = p50_ms
        self._device = device
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
        return self._device


def synthetic_curve(params: Mapping[str, Scalar], epoch: int) -> dict[str, float]:
    """A student's metrics after `epoch` epochs: wider is better and slower, and the best `lr` is 0.003."""
    width, lr = float(params.get("width", 12)), float(params.get("lr", 3e-3))
    ceiling = 1.0 - 0.3 / width - 0.02 * math.log10(lr / 3e-3) ** 2
    return {"accuracy": round(ceiling * (1 - 0.5 * math.exp(-epoch / 2)), 6)}


def synthetic_cost(params: Mapping[str, Scalar]) -> dict[str, float]:
    """What is known of such a student before it is trained."""
    width = float(params.get("width", 12))
    return {"num_params": 100 * width**2, "size_bytes": 110 * width**2, "latency_p50_ms": round(0.02 * width, 6)}


@dataclass(slots=True)
class SyntheticRunner:
    """Runs jobs on synthetic curves. Trains one epoch per yielded event, and goes on in place where it is let.

    Attributes:
        max_params: A hard limit on `num_params`, checked before the first epoch.
        max_ms: A hard limit on latency.
        device: What latency is measured on.
        slowness: Latency on this device, as a factor.
        store: Keeps the checkpoints, where there is one.
        epochs_trained: Epochs by trial number.
        num_measured: Latencies that were measured, by trial number.
    """

    max_params: float = math.inf
    max_ms: float = math.inf
    device: str = ""
    slowness: float = 1.0
    store: ArtifactStore | None = None
    epochs_trained: Counter[int] = field(default_factory=Counter)
    num_measured: Counter[int] = field(default_factory=Counter)

    def __call__(self, job: Job) -> Iterator[Event]:
        cost = synthetic_cost(job.params)
        cost["latency_p50_ms"] *= self.slowness
        graph = canonical_sha256(cost["num_params"])
        if job.to_epoch == job.from_epoch:
            self.num_measured[job.number] += 1
            excess = max(0.0, cost["latency_p50_ms"] / self.max_ms - 1)
            error = f"latency_p50_ms is {cost['latency_p50_ms']:g}" if excess else ""
            yield Event(kind="measured", number=job.number, values=cost, device=self.device, excess=excess, error=error)
            return
        if not job.known:
            self.num_measured[job.number] += 1
            if cost["num_params"] > self.max_params:
                excess = cost["num_params"] / self.max_params - 1
                yield Event(kind="infeasible", number=job.number, values=cost, excess=excess, error=f"num_params is {cost['num_params']:g}")
                return
            effective = canonical_sha256(dict(job.params))
            yield Event(kind="prepared", number=job.number, values=cost, effective=effective, graph=graph, device=self.device)
        from_epoch = job.from_epoch
        for rung, to_epoch in enumerate((job.to_epoch, *job.later), job.rung):
            yield from self._stretch(job, rung, from_epoch, to_epoch)
            from_epoch = to_epoch

    def _stretch(self, job: Job, rung: int, from_epoch: int, to_epoch: int) -> Iterator[Event]:
        curve: list[Mapping[str, float]] = []
        for epoch in range(from_epoch + 1, to_epoch + 1):
            self.epochs_trained[job.number] += 1
            curve.append({"epoch": float(epoch), **synthetic_curve(job.params, epoch)})
            yield Event(kind="epoch", number=job.number, epoch=epoch, values=curve[-1])
        checkpoint = f"{TRIALS}/{job.number:06d}/{to_epoch:06d}-{canonical_sha256(dict(job.params))[:32]}.safetensors"
        if self.store is not None:
            self.store.put(checkpoint, checkpoint.encode())
        yield Event(
            kind="rung",
            number=job.number,
            rung=rung,
            epoch=to_epoch,
            values=synthetic_curve(job.params, to_epoch),
            curve=tuple(curve),
            checkpoint=checkpoint,
            duration_s=float(to_epoch - from_epoch),
        )


OBJECTIVES = (
    Objective(metric="accuracy", mode="max"),
    Objective(metric="latency_p50_ms", mode="min"),
    Objective(metric="size_bytes", mode="min"),
)
SPACE = SearchSpace(
    params=(Param(name="lr", kind="float", low=5e-4, high=1e-2, log=True), Param(name="width", kind="int", low=6, high=20, step=2)),
    objectives=OBJECTIVES,
)
STUDY = "one"
JOURNAL = f"studies/{STUDY}/journal"
TRIALS = f"studies/{STUDY}/trials"


@dataclass
class SyntheticStudy:
    """One driver's view of a study on synthetic curves, in a store that may hold an earlier driver's events.

    Attributes:
        driver: Identity of this driver; another one for each attempt.
        budget: Instead of `num_trials`.
        training: Studies with the same one train alike.
        policy: By which finalists are picked.
        events: Everything that the coordinator made known.
    """

    store: ArtifactStore
    num_trials: int = 16
    sampler: Kind = "tpe"
    seed: int = 0
    space: SearchSpace = SPACE
    driver: str = "driver-1"
    max_failures: int = 1
    kind: SchedulerKind = "asha"
    scheduler: SchedulerConfig | None = None
    budget: BudgetConfig | None = None
    study_key: str = STUDY
    extends: tuple[str, ...] = ()
    training: str = "synthetic"
    policy: str = "fastest within 1.0 point of the teacher"
    runner: SyntheticRunner = field(default_factory=SyntheticRunner)
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.rules = Rules(
            space=self.space,
            scheduler=self.scheduler or SchedulerConfig(kind=self.kind, population=6),
            budget=self.budget or BudgetConfig(trials=self.num_trials),
            sampler=Sampler(kind=self.sampler, space=self.space, objectives=self.space.objectives, seed=self.seed),
            policy=parse_policy(self.policy),
            teacher_accuracy=0.97,
            seed=self.seed,
            trial_seed=7,
            max_failures=self.max_failures,
            recipe_of=lambda params: CompressionRecipe(),
            extends=self.extends,
        )
        identity = StudyIdentity(
            space=self.space, dataset="d", teacher="t", training=self.training, levels=(1, 3, 9), teacher_accuracy=self.rules.teacher_accuracy
        )
        self._mortal = MortalStore(self.store)
        place = StudyPlace(store=self._mortal, study_key=self.study_key, driver=self.driver)
        self.coordinator = open_study(self.rules, identity, place=place, clock=self.clock)
        self.state = self.coordinator.course.state
        self.events: list[Event] = []
        self.coordinator.listen(self.events.append)

    def run(self, *, num_slots: int = 1, budget: int | None = None) -> list[Trial]:
        """Run to the end, or until `budget` events were seen, as if the driver had died then."""
        if SerialExecutor(self.runner, clock=self.clock, num_slots=num_slots, budget=budget).run(self.coordinator):
            self.coordinator.close()
        else:
            self._mortal.die()
        return self.state.trials()
