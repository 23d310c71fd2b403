"""What `foundry plan` answers: the stages, how the teacher would be trained, and on request what the search space comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from foundry_ray.documents import Json, Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """What a run would do with a stage. `key` is empty where it hangs on the output of a stage that has not run."""

    name: str
    action: Literal["reused", "resumed", "run", "skipped"]
    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTraining:
    """How the teacher would be trained. Steps are None until the data is prepared; `zero_stage` is None where nothing is sharded."""

    engine: Literal["torch", "deepspeed"]
    precision: str
    batch_size: int
    num_workers: int
    min_workers: int
    micro_batch_size: int
    accumulation: int
    zero_stage: int | None
    steps_per_epoch: int | None
    num_steps: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledModel:
    """A model with random weights as it would be served. `params` is the point of the space that it stands for; MACs are per sample."""

    num_params: int
    num_macs: int
    size_bytes: int
    latency_p50_ms: float
    latency_p95_ms: float
    params: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def values(self) -> Mapping[str, float]:
        """By the names of metrics."""
        names = ("num_params", "num_macs", "size_bytes", "latency_p50_ms", "latency_p95_ms")
        return {name: float(getattr(self, name)) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How much of a space keeps a constraint, as far as it can be told before training.

    Attributes:
        constraint: As `constraints` writes it.
        share: Of the students that keep it: of those drawn at random, and of the smallest and the largest.
        num_known: Students drawn at random whose metric is known; 0 for what only training tells.
        num_kept: Those of them that keep it.
        nearest: The value that goes furthest its way; None where nothing is known.
        params: The student that has it.
    """

    constraint: str
    share: Literal["all", "some", "none", "unknown"]
    num_known: int
    num_kept: int
    nearest: float | None = None
    params: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyEffort:
    """What a study is expected to take. A worker-hour is an hour of one worker's work.

    Attributes:
        num_trials: Of the budget, or as many as the scheduler begins.
        num_trained: Those of them that are neither duplicates nor infeasible, if all are as the sample is.
        epochs_per_trial: Of a trained one, in the mean, as the scheduler stops them.
        epoch_s: Of the median student, on one worker; None where the rows of the data set are not known.
        prepare_s: To build, export and measure a student.
        num_workers: That work at once; None where only the cluster knows.
        worker_hours: For all trials; None where `epoch_s` is.
        hours: From beginning to end; None where `worker_hours` or `num_workers` is.
        price: Of a worker-hour.
        cost: worker_hours x price.
    """

    num_trials: int
    num_trained: float
    epochs_per_trial: float
    epoch_s: float | None
    prepare_s: float
    num_workers: int | None
    worker_hours: float | None
    hours: float | None
    price: float
    cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceProfile:
    """What a search space comes to, found on students of a teacher with random weights.

    Attributes:
        num_sampled: Points that were drawn and could be built.
        num_impossible: Points whose recipe cannot be carried out.
        num_duplicates: Sampled students that are the same as an earlier one after rounding: a study answers them from memory.
        num_graphs: Different graphs among them; each is measured once.
        num_judged: Sampled students of whom everything that constraints ask is known, but for accuracy.
        num_feasible: Those of them that keep all constraints, as far as that is known.
        smallest: By parameters, of all that were found; it needs not be one of the sampled, and neither does `largest`.
        median: Of the sampled students.
        device: What latency was measured on.
        train_device: What the epoch was timed on.
    """

    num_sampled: int
    num_impossible: int
    num_duplicates: int
    num_graphs: int
    num_judged: int
    num_feasible: int
    teacher: ProfiledModel
    smallest: ProfiledModel
    median: ProfiledModel
    largest: ProfiledModel
    reaches: tuple[Reach, ...]
    effort: StudyEffort
    device: str
    train_device: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked configuration with everything resolved, its stages, and the profile of its search space where that was asked for."""

    pipeline: str
    config: Json
    stages: tuple[PlannedStage, ...]
    training: PlannedTraining
    warnings: tuple[str, ...] = ()
    profile: SpaceProfile | None = None
