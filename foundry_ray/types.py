"""The values that cross stage borders: frozen, slotted, keyword-only; units in names, ratios in [0, 1]. Persisted as `documents` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from foundry_ray.documents import FORMAT_VERSION as FORMAT_VERSION
from foundry_ray.documents import Json as Json
from foundry_ray.documents import Scalar as Scalar
from foundry_ray.documents import canonical_bytes as canonical_bytes
from foundry_ray.documents import canonical_sha256 as canonical_sha256
from foundry_ray.documents import from_json as from_json
from foundry_ray.documents import parse_json as parse_json
from foundry_ray.documents import to_json as to_json
from foundry_ray.plans import Plan as Plan
from foundry_ray.plans import PlannedStage as PlannedStage
from foundry_ray.plans import PlannedTraining as PlannedTraining
from foundry_ray.plans import ProfiledModel as ProfiledModel
from foundry_ray.plans import Reach as Reach
from foundry_ray.plans import SpaceProfile as SpaceProfile
from foundry_ray.plans import StudyEffort as StudyEffort
from foundry_ray.schemas import ImageSchema as ImageSchema
from foundry_ray.schemas import Preprocessing as Preprocessing
from foundry_ray.schemas import Schema as Schema
from foundry_ray.schemas import TokenSchema as TokenSchema

Mode = Literal["max", "min"]


class TrialState(StrEnum):
    """Where a trial stands. STOPPED: the scheduler ended it at a rung, its values are real but of low fidelity."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPED = "stopped"
    COMPLETE = "complete"
    FAILED = "failed"
    INFEASIBLE = "infeasible"

    @property
    def is_terminal(self) -> bool:
        return self not in (TrialState.WAITING, TrialState.RUNNING)


class StageStatus(StrEnum):
    """What a run did with a stage."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    REUSED = "reused"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class RunStatus(StrEnum):
    """How a run stands; REJECTED: finished, and a gate said no."""

    RUNNING = "running"
    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitInfo:
    """One split of a data set: rows and bytes as stored."""

    num_rows: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRef:
    """A published, immutable, hashed object. `key` is relative to the store; `sha256` is that of the manifest."""

    key: str
    kind: str
    sha256: str
    size_bytes: int
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRef:
    """A prepared data set in the store, split once; `preprocessing` is of images alone, `tokenizer` the sha256 of what made ids of its texts."""

    key: str
    fingerprint: str
    task: str
    splits: Mapping[str, SplitInfo]
    schema: Schema
    preprocessing: Preprocessing | None = None
    notes: tuple[str, ...] = ()
    tokenizer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """One dimension of a search space. `when` maps another parameter's name to the values under which this one exists."""

    name: str
    kind: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Scalar, ...] = ()
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A metric with a direction; `threshold` is the worst value of interest."""

    metric: str
    mode: Mode
    threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """What a sweep may vary, what it wants, and what it must keep (`"num_params <= 100000"`)."""

    params: tuple[Param, ...]
    objectives: tuple[Objective, ...] = ()
    constraints: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a recipe; `params` is validated by the compressor registered under `kind`."""

    kind: str
    params: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionRecipe:
    """How a model is made smaller: steps in the order in which they are carried out."""

    steps: tuple[Step, ...] = ()

    @property
    def sha256(self) -> str:
        """Canonical hash: equal recipes hash equal, whatever the order of the parameters."""
        return canonical_sha256(to_json(self))

    def step(self, kind: str) -> Step | None:
        """The step of this kind, or None; a recipe holds at most one of each."""
        return next((step for step in self.steps if step.kind == kind), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One sampled configuration and what became of it. `values` are the last reported metrics by name (val only).

    Attributes:
        rung: Index of the highest rung that it reached.
        dominated: Why it is no candidate although its values are real: it is compressed, and not faster than the teacher. Empty otherwise.
        device: Fingerprint of the device that its latency is of.
        bracket: Of Hyperband; 0 elsewhere.
    """

    trial_id: str
    number: int
    params: Mapping[str, Scalar]
    recipe: CompressionRecipe
    state: TrialState = TrialState.WAITING
    rung: int | None = None
    resource_used: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[Mapping[str, float], ...] = ()
    num_failures: int = 0
    checkpoint: str | None = None
    error: str | None = None
    seed: int = 0
    duration_s: float = 0.0
    dominated: str = ""
    device: str = ""
    bracket: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyProgress:
    """How far a study was when a trial reported: `hypervolume` is that of all values until then, as a share of the box up to the worst of them."""

    at_s: float
    worker_seconds: float
    epochs: int
    num_trials: int
    hypervolume: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """What a study found. `pareto_front` and `chosen` are trial numbers; `worker_seconds` is how long workers were busy with it, all together.

    `stopped_by` says what ended the asking: `trials`, `wall_time_s`, `worker_hours`, `cost`, `min_gain_per_worker_hour`, `space` (a grid is done) or
    `scheduler` (a population is complete).
    """

    study_name: str
    study_key: str
    trials: tuple[Trial, ...]
    objectives: tuple[Objective, ...]
    pareto_front: tuple[int, ...]
    chosen: int
    num_by_state: Mapping[str, int]
    worker_seconds: float
    history: tuple[StudyProgress, ...] = ()
    stopped_by: str = ""
    cost: float = 0.0

    @property
    def chosen_trial(self) -> Trial:
        return next(trial for trial in self.trials if trial.number == self.chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyResult:
    """Time of one forward pass through `inference/`, of a deployed graph on a device. `ci_ms` is the 95 % interval of the median."""

    graph_sha256: str
    device: str
    runtime: str
    threads: int
    batch_size: int
    p50_ms: float
    p95_ms: float
    ci_ms: tuple[float, float]
    n: int
    is_noisy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArtifact:
    """A model in the store. `size_bytes` is what is served (the ONNX file); MACs are per sample."""

    artifact: ArtifactRef
    family: str
    num_params: int
    num_macs: int
    size_bytes: int
    recipe: CompressionRecipe
    parents: tuple[str, ...] = ()
    val_metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[Mapping[str, float], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """A measured metric with its 95 % interval over `n` samples."""

    value: float
    ci_low: float
    ci_high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One threshold: what was measured, what was wanted (`relation` limit), and whether it holds."""

    name: str
    value: float
    relation: Literal["<=", ">="]
    limit: float
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """One model's side of the comparison."""

    model_sha256: str
    num_params: int
    num_macs: int
    size_bytes: int
    metrics: Mapping[str, MetricValue]
    latency: tuple[LatencyResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """Teacher against student on one split; `num_test_openings` says how often this fingerprint's test split was read."""

    model: str
    dataset_fingerprint: str
    split: str
    teacher: ModelReport
    student: ModelReport
    agreement: MetricValue
    gates: tuple[GateResult, ...]
    passed: bool
    num_test_openings: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a registered version was made of: enough to make it again. `stages` maps each stage to its key, `versions` are those of libraries,
    and `code` identifies the sources: foundry's version, the commit of the working folder, hashes of the user's own modules."""

    run_id: str
    dataset_key: str
    dataset_fingerprint: str
    teacher: str
    teacher_sha256: str
    study_key: str
    trial: Trial
    config: Json
    stages: Mapping[str, str]
    seeds: Mapping[str, int]
    versions: Mapping[str, str]
    code: Mapping[str, str]
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryEntry:
    """A registered version. `report` is the key of its evaluation report; aliases point at versions; tags are the user's own."""

    name: str
    version: int
    model: ModelArtifact
    report: str
    passed: bool
    aliases: tuple[str, ...] = ()
    run_id: str = ""
    created_at: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    lineage: Lineage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A deployed application."""

    app_name: str
    url: str
    model_version: str
    num_replicas: int
    canary_ratio: float = 0.0
    status: str = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """What one run did with one stage. `outputs` is the stage's typed result as JSON; partial work lies under `progress_key`, if it says one."""

    name: str
    key: str
    status: StageStatus = StageStatus.PENDING
    outputs: Json = None
    attempts: int = 0
    duration_s: float = 0.0
    reason: str = ""
    error: str | None = None
    progress_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The record of one execution of a pipeline. It names keys; the results lie under them."""

    run_id: str
    pipeline: str
    config: Json
    versions: Mapping[str, str]
    stages: tuple[StageRecord, ...] = ()
    status: RunStatus = RunStatus.RUNNING
    started_at: str = ""
    ended_at: str | None = None
    warnings: tuple[str, ...] = ()
    source: str = ""

    def stage(self, name: str) -> StageRecord | None:
        return next((stage for stage in self.stages if stage.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that `foundry doctor` looked at; `fix` is the command that mends it."""

    name: str
    is_ok: bool
    detail: str
    fix: str = ""
    is_optional: bool = False
