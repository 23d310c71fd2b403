"""The pipeline file as typed, frozen values, and the only reader of the environment.

Decides: keys, defaults, ranges, units, what `scale` does, which fields are *semantic* (they enter stage keys) and which are
*execution* (where and how fast; tagged `execution`). Leaves to others: what the values mean.
"""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails

from foundry_ray.errors import ConfigError, FoundryError, OutOfRange, UnknownKey
from foundry_ray.types import Json, Scalar

Scale = Literal["smoke", "small", "full"]
_EXECUTION: JsonDict = {"execution": True}
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class SplitConfig(Section):
    """Rows per split, as counts (>= 1) or as fractions of the rows left after cleaning (< 1)."""

    train: float = Field(0.7, gt=0, description="Rows to train on: a count, or a fraction below 1.")
    val: float = Field(0.1, gt=0, description="Rows that choose: epochs, trials, the winner.")
    test: float = Field(0.2, gt=0, description="Rows that judge the frozen winner, once.")


class CleanConfig(Section):
    """What to do with records that would mislead training."""

    duplicates: Literal["drop", "keep"] = Field("drop", description="Drop rows whose pixels are equal to an earlier row's.")
    corrupt: Literal["error", "drop"] = Field("error", description="An unreadable record ends the run, or is dropped with a warning.")


class DataConfig(Section):
    """The data set and its split."""

    source: str = Field(description="A registered name (`foundry data fetch NAME`), or the path of a folder of images in one folder per class.")
    split: SplitConfig = Field(SplitConfig(), description="Rows per split.")
    clean: CleanConfig = Field(CleanConfig(), description="Cleaning before the split.")
    augment: tuple[Literal["shift", "rotate", "flip"], ...] = Field((), description="Random changes of training images only.")


class ModelConfig(Section):
    """A model of a registered family, sized by numbers."""

    family: str = Field("resnet", description="A registered model family.")
    width: int = Field(32, ge=2, le=1024, description="Channels of the first stage.")
    depth: int = Field(2, ge=1, le=32, description="Blocks per stage.")


class TrainConfig(Section):
    """One training job."""

    epochs: int = Field(12, ge=1, le=10_000, description="Passes over the training split.")
    batch_size: int = Field(128, ge=1, description="Samples per optimizer step over all workers.")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="Update rule.")
    lr: float = Field(2e-3, gt=0, le=10, description="Peak learning rate.")
    weight_decay: float = Field(0.01, ge=0, le=1, description="Decoupled weight decay.")
    schedule: Literal["one_cycle", "cosine", "constant"] = Field("one_cycle", description="Learning rate over the steps.")
    warmup_ratio: float = Field(0.15, ge=0, lt=1, description="Share of the steps that the learning rate rises.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the device computes it natively, else fp32.")
    grad_clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 switches clipping off.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread over all classes.")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="Decay per step of the averaged weights that are evaluated and kept; 0: off.")


class DeepSpeedConfig(Section):
    """What DeepSpeed does with the optimizer's state."""

    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="ZeRO stage (arXiv 1910.02054).", json_schema_extra=_EXECUTION)


class TeacherConfig(Section):
    """The large model that the student learns from."""

    model: ModelConfig = Field(ModelConfig(), description="Its architecture.")
    train: TrainConfig = Field(TrainConfig(), description="How it is trained.")
    workers: int = Field(2, ge=1, le=4096, description="Ray Train workers; the global batch stays the same.", json_schema_extra=_EXECUTION)
    use_gpu: Literal["auto", True, False] = Field(
        "auto", description="auto: one GPU per worker where there are enough.", json_schema_extra=_EXECUTION
    )
    deepspeed: DeepSpeedConfig = Field(DeepSpeedConfig(), description="DeepSpeed settings.")
    max_failures: int = Field(3, ge=0, le=100, description="Worker deaths that a run survives.", json_schema_extra=_EXECUTION)


class SchedulerConfig(Section):
    """When a trial is stopped."""

    kind: Literal["asha", "none"] = Field("asha", description="asha: at each rung the best 1/reduction_factor go on (arXiv 1810.05934).")
    rungs: tuple[int, ...] = Field((1, 3, 9), min_length=1, description="Epochs at which trials are compared; the last one completes a trial.")
    reduction_factor: float = Field(3.0, gt=1, le=16, description="One in this many goes on to the next rung.")

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
    """How much a study may spend. Execution: a larger budget continues the same study."""

    trials: int = Field(16, ge=1, le=1_000_000, description="Trials in all.", json_schema_extra=_EXECUTION)
    wall_time_s: float | None = Field(None, gt=0, description="Seconds after which no trial is started.", json_schema_extra=_EXECUTION)


class LatencyConfig(Section):
    """How latency is measured."""

    batch_size: int = Field(1, ge=1, le=4096, description="Samples per forward pass.")
    threads: int = Field(1, ge=1, le=256, description="Threads of the runtime.")
    budget_s: float = Field(1.0, gt=0, le=60, description="Time of one measurement.", json_schema_extra=_EXECUTION)


_OBJECTIVES = (
    ObjectiveConfig(metric="accuracy", mode="max"),
    ObjectiveConfig(metric="latency_p50_ms", mode="min"),
    ObjectiveConfig(metric="size_bytes", mode="min"),
)


class SearchConfig(Section):
    """The joint search over hyperparameters and compression."""

    space: str = Field("joint_cnn", description="A file of search_spaces/, or a path.")
    sampler: Literal["tpe", "random", "nsga2"] = Field("tpe", description="What proposes.")
    scheduler: SchedulerConfig = Field(SchedulerConfig(), description="What stops.")
    objectives: tuple[ObjectiveConfig, ...] = Field(_OBJECTIVES, min_length=1, description="What is wanted, most important first.")
    constraints: tuple[str, ...] = Field((), description='Hard limits, as "num_params <= 100000".')
    budget: BudgetConfig = Field(BudgetConfig(), description="What it may cost.")
    choose: str = Field("fastest within 1.0 point of the teacher", description="The policy that picks the winner, on val.")
    latency: LatencyConfig = Field(LatencyConfig(), description="How latency is measured.")
    max_trial_failures: int = Field(
        2, ge=0, le=100, description="Deaths of one trial's process before it counts as failed.", json_schema_extra=_EXECUTION
    )


class StudentConfig(Section):
    """How trials, and then the chosen one to its end, are trained. A trial is a prefix of this training."""

    epochs: int = Field(30, ge=1, le=10_000, description="Full budget; the schedule spans it, rungs are points on the way.")
    batch_size: int = Field(64, ge=1, description="Samples per step.")
    schedule: Literal["one_cycle", "cosine", "constant"] = Field("cosine", description="Learning rate over the full budget.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="As for the teacher.")
    ema_decay: float = Field(0.98, ge=0, lt=1, description="Averaged weights are what rungs judge, so that an unfinished schedule is judged fairly.")
    target_views: int = Field(8, ge=1, le=256, description="Fixed augmented views per sample whose teacher logits are cached.")
    calibration_rows: int = Field(256, ge=1, description="Training rows that set the int8 ranges.")


class GatesConfig(Section):
    """Thresholds that the student must pass on test; ratios are student / teacher."""

    accuracy_drop_points: float = Field(1.5, ge=0, le=100, description="Most points of accuracy that may be lost.")
    latency_ratio: float | None = Field(None, gt=0, description="Largest p50 ratio.")
    size_ratio: float | None = Field(None, gt=0, description="Largest ratio of served bytes.")
    params_ratio: float | None = Field(None, gt=0, description="Largest ratio of parameters.")
    min_agreement: float | None = Field(None, ge=0, le=1, description="Least share of equal predictions.")


class SloConfig(Section):
    """What the endpoint promises."""

    p95_ms: float = Field(50.0, gt=0, description="p95 of a request, in ms.")


class ServeConfig(Section):
    """The endpoint. All of it is execution."""

    enabled: bool = Field(False, description="Deploy at the end of the run.", json_schema_extra=_EXECUTION)
    slo: SloConfig = Field(SloConfig(), description="What is promised.", json_schema_extra=_EXECUTION)
    port: int = Field(8000, ge=0, le=65535, description="HTTP port; the next free one is taken where it is busy.", json_schema_extra=_EXECUTION)
    num_replicas: int = Field(1, ge=1, le=4096, description="Replicas.", json_schema_extra=_EXECUTION)
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
    deploy_timeout_s: float = Field(120.0, gt=0, description="Longest wait for a healthy deployment.", json_schema_extra=_EXECUTION)


class PipelineConfig(Section):
    """A whole pipeline."""

    name: Annotated[str, Field(pattern=_NAME)] = Field(description="Name of the pipeline and of the registered model.")
    scale: Scale = Field(
        "small", description="smoke: a check in a minute; small: as written; full: 2x epochs, 3x trials.", json_schema_extra=_EXECUTION
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Every other seed derives from this one.")
    store: str = Field("embedded", description="embedded, file:///path or s3://bucket/prefix.", json_schema_extra=_EXECUTION)
    cluster: str = Field("local", description="local, a file of cluster/, or an address.", json_schema_extra=_EXECUTION)
    data: DataConfig = Field(description="The data set.")
    task: str = Field("image_classification", description="A registered task.")
    teacher: TeacherConfig = Field(TeacherConfig(), description="The large model.")
    search: SearchConfig = Field(SearchConfig(), description="The study.")
    student: StudentConfig = Field(StudentConfig(), description="How students are trained.")
    gates: GatesConfig = Field(GatesConfig(), description="What the winner must pass.")
    serve: ServeConfig = Field(ServeConfig(), description="The endpoint.", json_schema_extra=_EXECUTION)
    limits: LimitsConfig = Field(LimitsConfig(), description="Time limits.", json_schema_extra=_EXECUTION)


class Settings(Section):
    """What the environment says."""

    home: Path = Field(Path(".foundry"), description="FOUNDRY_HOME: local state, daemons, fetched data sets.")
    store: str = Field("embedded", description="FOUNDRY_STORE: the store of commands that name none.")
    ray_address: str | None = Field(None, description="RAY_ADDRESS inside a Ray job.")
    is_inside_job: bool = Field(False, description="Whether this process was started by `foundry submit`.")
    token_path: Path | None = Field(None, description="FOUNDRY_TOKEN_PATH: the file with the token of a remote cluster.")
    store_retry_s: float = Field(
        90.0, ge=0, le=86_400, description="FOUNDRY_STORE_RETRY_S: seconds for which an operation on a silent store is repeated."
    )


def settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the environment. `home` is absolute."""
    env = os.environ if environ is None else environ
    token = env.get("FOUNDRY_TOKEN_PATH")
    return Settings(
        home=Path(env.get("FOUNDRY_HOME", ".foundry")).absolute(),
        store=env.get("FOUNDRY_STORE", "embedded"),
        ray_address=env.get("RAY_ADDRESS"),
        is_inside_job="FOUNDRY_JOB" in env,
        token_path=Path(token) if token else None,
        store_retry_s=_seconds(env, "FOUNDRY_STORE_RETRY_S", 90.0),
    )


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise OutOfRange(f"{name} is {text!r}, wanted seconds from 0 to 86400.", hint=f"`unset {name}` uses {default:g}.", key=name, value=text)
    return value


def load_config(path: str | Path, overrides: Sequence[str] = (), *, scale: str | None = None) -> PipelineConfig:
    """Read a pipeline file, apply `key=value` overrides, check everything, and resolve `scale`.

    Raises:
        UnknownKey: With the nearest valid key.
        OutOfRange: A value outside its range or of the wrong type.
        ConfigError: The file is missing or is not YAML.
    """
    document = read_yaml(Path(path))
    for override in overrides:
        _set(document, override)
    if scale is not None:
        document["scale"] = scale
    return apply_scale(validate(PipelineConfig, document, where=str(path)))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top is a mapping. Raises ConfigError."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist.", hint="`foundry init` writes a pipeline.yaml to start from.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.", hint="name a YAML file.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{path} is not YAML{line}: {getattr(error, 'problem', error)}.", hint="check the indentation and the brackets there."
        ) from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds a {type(document).__name__}, wanted a mapping of sections.", hint="`foundry schema` prints what is allowed.")
    return document


M = typing.TypeVar("M", bound=BaseModel)


def validate(model: type[M], document: object, *, where: str) -> M:
    """Check a document against a section type, with errors as users need them: what, got, wanted, hint."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise _readable(model, error.errors()[0], where) from error


def apply_scale(config: PipelineConfig) -> PipelineConfig:
    """Resolve `scale` into the numbers it stands for. Stage keys see the numbers only."""
    if config.scale == "smoke":
        return _smoke(config)
    if config.scale == "full":
        budget = config.search.budget.model_copy(update={"trials": 3 * config.search.budget.trials})
        return _resized(config, teacher_epochs=2 * config.teacher.train.epochs, student_epochs=2 * config.student.epochs, budget=budget)
    return config


def _smoke(config: PipelineConfig) -> PipelineConfig:
    split = config.data.split
    counts = {name: min(getattr(split, name), limit) for name, limit in (("train", 512), ("val", 128), ("test", 128))}
    data = config.data.model_copy(update={"split": SplitConfig(**counts)})
    rungs = tuple(rung for rung in config.search.scheduler.rungs if rung <= 2) or (1,)
    search = config.search.model_copy(update={"scheduler": config.search.scheduler.model_copy(update={"rungs": rungs})})
    budget = search.budget.model_copy(update={"trials": min(4, search.budget.trials)})
    train = config.teacher.train.model_copy(update={"batch_size": min(32, config.teacher.train.batch_size)})
    teacher = config.teacher.model_copy(update={"train": train})
    student = config.student.model_copy(update={"batch_size": min(32, config.student.batch_size)})
    smaller = config.model_copy(update={"data": data, "search": search, "teacher": teacher, "student": student})
    return _resized(smaller, teacher_epochs=min(2, config.teacher.train.epochs), student_epochs=min(2, config.student.epochs), budget=budget)


def _resized(config: PipelineConfig, *, teacher_epochs: int, student_epochs: int, budget: BudgetConfig) -> PipelineConfig:
    train = config.teacher.train.model_copy(update={"epochs": teacher_epochs})
    return config.model_copy(
        update={
            "teacher": config.teacher.model_copy(update={"train": train}),
            "student": config.student.model_copy(update={"epochs": student_epochs}),
            "search": config.search.model_copy(update={"budget": budget}),
        }
    )


def semantic(section: BaseModel) -> dict[str, Json]:
    """The fields of a section that change its result, as JSON: what a stage key is made of."""
    kept: dict[str, Json] = {}
    for name, field in type(section).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("execution"):
            continue
        value = getattr(section, name)
        kept[name] = semantic(value) if isinstance(value, BaseModel) else _plain(value)
    return kept


def _plain(value: object) -> Json:
    if isinstance(value, BaseModel):
        return semantic(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return typing.cast(Json, value)


def _set(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set got {override!r}, wanted key=value.", hint="for example `--set search.budget.trials=8`.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {text!r} is not a YAML value.", hint="quote it, for example '--set key=\"[1, 3]\"'.") from error
    place = document
    *parents, last = key.split(".")
    for parent in parents:
        below = place.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {key}: {parent!r} is a value and not a section.", hint="`foundry schema` prints the sections.")
        place = below
    place[last] = value


def _readable(model: type[BaseModel], detail: ErrorDetails, where: str) -> FoundryError:
    path = ".".join(str(part) for part in detail["loc"] if not isinstance(part, str) or not part.startswith("function-"))
    if detail["type"] == "extra_forbidden":
        return _unknown_key(model, detail, path, where)
    if detail["type"] == "missing":
        return ConfigError(f"{where}: {path} is missing.", hint=f"add `{path}:`; `foundry schema` describes it.")
    got = detail["input"]
    shown = f"{path} is {got!r}" if path else "the document"
    wanted = detail["msg"].replace("Input should be", "must be").replace("Value error, ", "")
    return OutOfRange(f"{where}: {shown}, but {wanted}.", hint=f"`foundry schema` gives the range of `{path}`.", key=path, value=repr(got))


def _unknown_key(model: type[BaseModel], detail: ErrorDetails, path: str, where: str) -> UnknownKey:
    valid = _keys_at(model, detail["loc"][:-1])
    near = difflib.get_close_matches(str(detail["loc"][-1]), valid, n=1, cutoff=0.3)
    prefix = path.rpartition(".")[0]
    nearest = f"{prefix}.{near[0]}" if near and prefix else (near[0] if near else None)
    hint = f"did you mean `{nearest}`?" if nearest else f"valid keys here: {', '.join(valid)}."
    return UnknownKey(f"{where}: {path} is no key of this section; it has {', '.join(valid)}.", hint=hint, key=path, nearest=nearest)


def _keys_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation
        options = [annotation, *typing.get_args(annotation)]
        current = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(current.model_fields)


def parse_params(model: type[M], params: Mapping[str, Scalar], *, where: str) -> M:
    """Validate the `params:` of a registered name by the plugin's own type."""
    return validate(model, dict(params), where=where)
