"""The sections of a pipeline file: every key with its type, default, range, unit and one sentence.

Fields that change a result are *semantic* and enter stage keys; where and how fast is *execution*, and tagged so.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.config import JsonDict

from foundry_ray.config.export import ExportConfig
from foundry_ray.config.gates import GatesConfig
from foundry_ray.config.section import Section
from foundry_ray.config.store import StoreConfig, StoreField
from foundry_ray.config.training import AdversarialConfig, Precision, Schedule, TeacherConfig

Scale = Literal["smoke", "small", "full"]
_EXECUTION: JsonDict = {"execution": True}
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"


class SplitConfig(Section):
    """Rows per split, as counts (>= 1) or as fractions of the rows left after cleaning (< 1)."""

    train: float = Field(0.7, gt=0, description="Rows to train on: a count, or a fraction below 1.")
    val: float = Field(0.1, gt=0, description="Rows that choose: epochs, trials, the winner.")
    test: float = Field(0.2, gt=0, description="Rows that judge the frozen winner, once.")
    max_rows: int | None = Field(None, ge=3, description="Most rows that fractions are taken of; all where absent.")


class CleanConfig(Section):
    """What to do with records that would mislead training."""

    duplicates: Literal["drop", "keep"] = Field("drop", description="Drop rows whose pixels or tokens are equal to an earlier row's.")
    corrupt: Literal["error", "drop"] = Field("error", description="An unreadable record ends the run, or is dropped with a warning.")


class TextConfig(Section):
    """How texts become rows of token ids."""

    text_column: str = Field("text", min_length=1, description="Of a .csv or .jsonl file: the column that holds the text.")
    label_column: str = Field("label", min_length=1, description="Of a .csv or .jsonl file: the column that holds the class.")
    tokenizer: str = Field(
        "wordpiece",
        description="wordpiece: trained on the training split; or a file of the library tokenizers, as a path or as package:MODULE/PATH.json.",
    )
    vocab_size: int = Field(8000, ge=16, le=1_000_000, description="Most tokens of a tokenizer that is trained here.")
    length: int = Field(128, ge=2, le=8192, description="Tokens of a row: longer texts are cut, shorter ones padded.")


class DataConfig(Section):
    """The data set and its split."""

    source: str = Field(
        description="A registered name (`foundry data fetch NAME`), or the path of a folder of images (one folder per class), of texts as .csv or "
        ".jsonl, or of a .npz of token ids."
    )
    text: TextConfig | None = Field(None, description="How texts are read, where the source holds texts; absent: with the defaults.")
    split: SplitConfig = Field(SplitConfig(), description="Rows per split.")
    clean: CleanConfig = Field(CleanConfig(), description="Cleaning before the split.")
    augment: tuple[Literal["shift", "rotate", "flip"], ...] = Field((), description="Random changes of training images only.")


class SchedulerConfig(Section):
    """When a trial is stopped, or its weights replaced."""

    kind: Literal["asha", "hyperband", "median", "pbt", "none"] = Field(
        "asha",
        description="asha: at each rung the best 1/reduction_factor go on (arXiv 1810.05934; with several objectives MO-ASHA, 2106.12639); "
        "hyperband: brackets that start at different rungs (1603.06560); median: whoever is worse than the median of the others stops; "
        "pbt: the worst take over weights and parameters of the best (1711.09846).",
    )
    rungs: tuple[int, ...] = Field((1, 3, 9), min_length=1, description="Epochs at which trials are compared; the last one completes a trial.")
    reduction_factor: float = Field(3.0, gt=1, le=16, description="One in this many goes on to the next rung.")
    postpone: bool = Field(
        True,
        description="asha with several objectives: a student that costs more than one of the best of the last rung waits until no other can begin.",
    )
    min_results: int = Field(5, ge=1, le=10_000, description="median: results that a rung needs before a trial is stopped there.")
    population: int = Field(8, ge=2, le=10_000, description="pbt: members; search.budget.trials is raised to no more than these.")
    quantile: float = Field(0.25, gt=0, le=0.5, description="pbt: share of the members that is replaced, and share that replaces them.")
    resample_ratio: float = Field(0.25, ge=0, le=1, description="pbt: how often a parameter is drawn anew instead of changed by a factor 0.8 or 1.2.")

    @model_validator(mode="after")
    def _rising(self) -> SchedulerConfig:
        if list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] < 1:
            raise ValueError(f"rungs are {list(self.rungs)}, but must rise strictly and start at 1 or more")
        return self


class ObjectiveConfig(Section):
    """A metric with a direction."""

    metric: str = Field(description="accuracy, latency_p50_ms, latency_p95_ms, size_bytes, num_params or num_macs.")
    mode: Literal["max", "min"] = Field(description="Which way is better.")
    threshold: float | None = Field(None, description="Worst value of interest.")


class BudgetConfig(Section):
    """How much a study may spend. Execution: a larger budget continues the same study. What is first spent ends the asking."""

    trials: int = Field(16, ge=1, le=1_000_000, description="Trials in all.", json_schema_extra=_EXECUTION)
    wall_time_s: float | None = Field(
        None, gt=0, description="Seconds of the study, over all its drivers, after which no trial is begun.", json_schema_extra=_EXECUTION
    )
    worker_hours: float | None = Field(
        None, gt=0, description="Hours of work by all workers after which no trial is begun.", json_schema_extra=_EXECUTION
    )
    price_per_worker_hour: float = Field(0.0, ge=0, description="What one worker costs an hour, in your currency.", json_schema_extra=_EXECUTION)
    cost: float | None = Field(None, gt=0, description="Money after which no trial is begun; needs a price.", json_schema_extra=_EXECUTION)
    min_gain_per_worker_hour: float | None = Field(
        None,
        gt=0,
        description="Least gain of hypervolume an hour of work, as a share of what there is, over the last quarter of the work; below it no trial is "
        "begun.",
        json_schema_extra=_EXECUTION,
    )

    @model_validator(mode="after")
    def _priced(self) -> BudgetConfig:
        if self.cost is not None and not self.price_per_worker_hour:
            raise ValueError(f"cost is {self.cost:g} and price_per_worker_hour is 0; set the price, or name worker_hours")
        return self


class LatencyConfig(Section):
    """How latency is measured."""

    batch_size: int = Field(1, ge=1, le=4096, description="Samples per forward pass.")
    threads: int = Field(1, ge=1, le=256, description="Threads of the runtime.")
    budget_s: float = Field(1.0, gt=0, le=60, description="Time of one measurement.", json_schema_extra=_EXECUTION)
    device: str = Field(
        "", description="A custom Ray resource; latency is measured on a node that has it. Where absent, on the node where a trial runs."
    )


class TrialConfig(Section):
    """What one trial runs on. All of it is execution: at an equal batch the result is the same."""

    workers: int = Field(
        1, ge=1, le=4096, description="Workers of one trial; more than one are a Ray Train run of their own.", json_schema_extra=_EXECUTION
    )
    cpus: float = Field(1.0, gt=0, le=1024, description="CPUs that a worker reserves.", json_schema_extra=_EXECUTION)
    gpus: float | None = Field(
        None, ge=0, le=1024, description="GPUs that a worker reserves; where absent, a share of each GPU that is there.", json_schema_extra=_EXECUTION
    )
    max_failures: int = Field(2, ge=0, le=100, description="Deaths of one trial's process before it counts as failed.", json_schema_extra=_EXECUTION)
    recycle_after: int = Field(50, ge=1, le=1_000_000, description="Trials after which a worker process is replaced.", json_schema_extra=_EXECUTION)
    max_growth_mb: float = Field(500.0, gt=0, description="Growth of its memory, in MB, after which it is replaced.", json_schema_extra=_EXECUTION)
    silence_s: float = Field(
        3600.0, gt=0, description="Longest time of one epoch, after which its process is given up.", json_schema_extra=_EXECUTION
    )


class SearchConfig(Section):
    """The joint search over hyperparameters and compression."""

    space: str = Field("joint_cnn", description="A file of search_spaces/, or a path.")
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "bohb", "qmc", "random", "grid"] = Field(
        "tpe",
        description="What proposes: tpe (arXiv 2304.11127), gp (Gaussian process), cmaes (1604.00772), nsga2, bohb (1807.01774: tpe with a third of "
        "random proposals), qmc (scrambled Sobol points), random, grid.",
    )
    scheduler: SchedulerConfig = Field(SchedulerConfig(), description="What stops.")
    objectives: tuple[ObjectiveConfig, ...] | None = Field(
        None,
        min_length=1,
        description="What is wanted, most important first; where absent, what the space says, else accuracy, latency_p50_ms and size_bytes.",
    )
    constraints: tuple[str, ...] | None = Field(None, description='Hard limits, as "num_params <= 100000"; where absent, what the space says.')
    budget: BudgetConfig = Field(BudgetConfig(), description="What it may cost.")
    choose: str = Field(
        "fastest within 1.0 point of the teacher",
        description="The policy that picks the winner, on val: `fastest`, `smallest`, `most accurate` or `knee`, each with `within 1 point of the "
        "teacher` and limits, as `smallest within 2 points of the teacher and under 5 ms p95 and 100k params`; or `best under 5 ms and 1 MB`.",
    )
    latency: LatencyConfig = Field(LatencyConfig(), description="How latency is measured.")
    trial: TrialConfig = Field(TrialConfig(), description="What one trial runs on.", json_schema_extra=_EXECUTION)
    extends: tuple[str, ...] = Field(
        (),
        description="Keys of earlier studies that this one begins with, as `foundry study extend` writes them: equal training is taken over, "
        "from other training the best parameters are tried first.",
    )


class StudentConfig(Section):
    """How trials, and then the chosen one to its end, are trained. A trial is a prefix of this training."""

    epochs: int = Field(30, ge=1, le=10_000, description="Full budget; the schedule spans it, rungs are points on the way.")
    batch_size: int = Field(64, ge=1, description="Samples per step.")
    schedule: Schedule = Field("cosine", description="Learning rate over the full budget.")
    warmup_ratio: float = Field(
        0.03, ge=0, lt=1, description="Share of the steps that the learning rate rises; short, so that the first rung sees it at its peak."
    )
    precision: Precision = Field("auto", description="As for the teacher.")
    ema_decay: float = Field(0.95, ge=0, lt=1, description="Averaged weights are what rungs judge, so that an unfinished schedule is judged fairly.")
    adversarial: AdversarialConfig | None = Field(None, description="As for the teacher.", json_schema_extra={"later": True})
    target_views: int = Field(8, ge=1, le=256, description="Fixed augmented views per sample whose teacher logits are cached.")
    calibration_rows: int = Field(256, ge=1, description="Training rows that set the int8 ranges.")


class SloConfig(Section):
    """What the endpoint promises."""

    p95_ms: float = Field(50.0, gt=0, description="p95 of a request, in ms.")


class ServeConfig(Section):
    """The endpoint. All of it is execution."""

    enabled: bool = Field(False, description="Deploy at the end of the run.", json_schema_extra=_EXECUTION)
    slo: SloConfig = Field(SloConfig(), description="What is promised.", json_schema_extra=_EXECUTION)
    port: int = Field(8000, ge=0, le=65535, description="HTTP port; the next free one is taken where it is busy.", json_schema_extra=_EXECUTION)
    num_replicas: int = Field(1, ge=1, le=4096, description="Replicas.", json_schema_extra=_EXECUTION)
    threads: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Threads of a replica's runtime; where absent, those of the model's recipe, or those that latency was measured with.",
        json_schema_extra=_EXECUTION,
    )
    cpus_per_replica: float = Field(
        0.0, ge=0, le=256, description="CPUs that a replica reserves; 0: a deployment never blocks the next run.", json_schema_extra=_EXECUTION
    )
    max_ongoing_requests: int = Field(100, ge=1, description="Requests in flight per replica.", json_schema_extra=_EXECUTION)
    batch_size: int = Field(32, ge=1, le=4096, description="Most queued requests that one forward pass takes.", json_schema_extra=_EXECUTION)
    num_requests: int = Field(20, ge=0, le=100_000, description="Test images that `foundry run` sends after deploying.", json_schema_extra=_EXECUTION)


class LimitsConfig(Section):
    """Every wait has a limit, and this is it. All of it is execution."""

    lease_ttl_s: float = Field(15.0, gt=1, description="Silence after which another run takes over work in progress.", json_schema_extra=_EXECUTION)
    lease_wait_s: float = Field(7200.0, gt=0, description="Longest wait for another run's work.", json_schema_extra=_EXECUTION)
    connect_timeout_s: float = Field(60.0, gt=0, description="Longest wait for a cluster.", json_schema_extra=_EXECUTION)
    head_silence_s: float = Field(
        30.0, gt=0, le=30, description="Silence after which a cluster's head counts as gone; Ray gives up after 60 s.", json_schema_extra=_EXECUTION
    )
    deploy_timeout_s: float = Field(120.0, gt=0, description="Longest wait for a healthy deployment.", json_schema_extra=_EXECUTION)


class PipelineConfig(Section):
    """A whole pipeline."""

    name: Annotated[str, Field(pattern=_NAME)] = Field(description="Name of the pipeline and of the registered model.")
    scale: Scale = Field(
        "small", description="smoke: a check in a minute; small: as written; full: 2x epochs, 3x trials.", json_schema_extra=_EXECUTION
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Every other seed derives from this one.")
    store: StoreField = Field(StoreConfig(), description="Where everything is kept: a URI, or `uri` and settings.", json_schema_extra=_EXECUTION)
    cluster: str = Field("local", description="local, a file of cluster/, or an address.", json_schema_extra=_EXECUTION)
    data: DataConfig = Field(description="The data set.")
    task: str = Field("image_classification", description="A registered task.")
    teacher: TeacherConfig = Field(TeacherConfig(), description="The large model.")
    search: SearchConfig = Field(SearchConfig(), description="The study.")
    student: StudentConfig = Field(StudentConfig(), description="How students are trained.")
    export: ExportConfig = Field(ExportConfig(), description="What is published besides the served file.")
    gates: GatesConfig = Field(GatesConfig(), description="What the winner must pass.")
    serve: ServeConfig = Field(ServeConfig(), description="The endpoint.", json_schema_extra=_EXECUTION)
    limits: LimitsConfig = Field(LimitsConfig(), description="Time limits.", json_schema_extra=_EXECUTION)

    @model_validator(mode="after")
    def _trials_are_prefixes(self) -> PipelineConfig:
        last, epochs = self.search.scheduler.rungs[-1], self.student.epochs
        if last > epochs:
            raise ValueError(f"search.scheduler.rungs end at epoch {last} and student.epochs is {epochs}; a trial is a prefix of that training")
        return self
