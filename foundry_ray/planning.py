"""`foundry plan`: what a run would do, stage by stage, and why. Reads the configuration and the store; trains, imports and starts nothing heavy."""

from __future__ import annotations

import multiprocessing
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from foundry_ray import keys
from foundry_ray.config import PipelineConfig, Settings, StoreConfig, TeacherConfig
from foundry_ray.errors import ConfigError, FoundryError, OutOfRange
from foundry_ray.protocols import ArtifactStore
from foundry_ray.runlog import list_runs, load_run, read_result
from foundry_ray.schemas import Schema, classes_only, images_only
from foundry_ray.stages import PROGRESS_PREFIXES, STAGES
from foundry_ray.types import DatasetRef, Json, ModelArtifact, Plan, PlannedStage, PlannedTraining, StudyResult, from_json

if TYPE_CHECKING:
    from foundry_ray.runtime.local_head import HeadOptions

T = TypeVar("T")


def check(config: PipelineConfig, *, until: str | None = None) -> None:
    """Everything that is wrong wherever it runs: names, the training, the search. Raises ConfigError and its kin.

    Something of the user's own (`import:`) is imported: whether that works is a part of the question.

    Args:
        until: The last stage; all of them where None.
    """
    from foundry_ray import models, tasks
    from foundry_ray.search.checks import check_search, check_students
    from foundry_ray.training.checks import check_batch, check_training

    models.check(config.teacher.model)
    _require("task", config.task, tasks.names())
    check_training(config.teacher)
    if config.data.split.train >= 1:
        check_batch(config.teacher, int(config.data.split.train))
    space = check_search(config)
    if _searches(until):
        check_students(space, config)


def _searches(until: str | None) -> bool:
    return until not in ("data", "teacher")


def check_data(config: PipelineConfig, settings: Settings) -> Schema:
    """What the raw data looks like, as its first records say, and whether that can be learnt as asked.

    Raises:
        DataError: The source is absent, or its first records are bad.
        ConfigError: The data is not what the task or the training takes.
    """
    from foundry_ray import models, tasks
    from foundry_ray.data.sources import open_source
    from foundry_ray.training.checks import check_inputs

    source = open_source(config.data, settings)
    source.locate()
    schema = source.schema()
    tasks.get(config.task).check(schema)
    models.check(config.teacher.model, schema)
    check_inputs(config.teacher, schema, augment=config.data.augment)
    return schema


def check_run(config: PipelineConfig, schema: Schema, settings: Settings, *, until: str | None = None) -> None:
    """Everything that is wrong with running it here and as far as asked. Starts nothing.

    Args:
        schema: Of the raw data.
        until: The last stage; all of them where None.

    Raises:
        ConfigError: Stages that are asked for do not work on such rows, or this machine lacks a tool.
        ResourcesUnavailable: The workers do not fit this machine, which is what trains.
    """
    from foundry_ray.evaluation import check_gates
    from foundry_ray.runtime import local_head
    from foundry_ray.search.checks import check_imported, check_place, check_runtimes, check_trials
    from foundry_ray.search.space import load_space
    from foundry_ray.training.checks import check_adversarial, check_machine

    if until in (None, "evaluation", "registry", "serving"):
        check_gates(config.gates, schema)
    if _searches(until):
        classes_only(schema, what="the search for a student")
        if config.serve.enabled and until is None:
            images_only(schema, what="serving", hint="set `serve.enabled: false`: `foundry predict` answers about texts.")
        check_adversarial(config.student.adversarial, has_images=schema.kind == "images")
        space = load_space(config.search.space, config.search)
        check_imported(space, config.teacher.model, where=config.search.space)
        check_trials(space, config, schema)
    head = _local_head(config.cluster, settings)
    if head is not None:
        is_running = local_head.status(settings) is not None
        num_cpus = head.num_cpus or multiprocessing.cpu_count()
        check_machine(config.teacher, num_cpus=None if is_running else num_cpus)
        if _searches(until):
            check_place(config.search, num_cpus=None if is_running else num_cpus, num_gpus=head.num_gpus)
            check_runtimes(space, where=config.search.space)


def _local_head(cluster: str, settings: Settings) -> HeadOptions | None:
    """How the local head would be started; None where other machines do the work."""
    from foundry_ray.clock import SystemClock
    from foundry_ray.observability import ConsoleReporter
    from foundry_ray.runtime.place import LOCAL, locate

    place = locate(cluster, settings, ConsoleReporter(clock=SystemClock()))
    return place.options if place.address == LOCAL else None


def _require(key: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        message = f"{key} is {name!r}, but must be one of {', '.join(sorted(known))}."
        raise OutOfRange(message, hint=f"name one of these under `{key}`.", key=key, value=name)


def check_stages(names: Collection[str], *, option: str = "--fresh") -> None:
    """Refuse an option that names a stage that does not exist."""
    keyed = [name for name in STAGES if name != "serving"]
    unknown = sorted(set(names) - set(keyed))
    if unknown:
        raise ConfigError(f"{option} got {unknown[0]!r}, wanted one of {', '.join(keyed)}.", hint="name a stage; serving is reconciled at every run.")


def check_price(price: float | None, *, is_profiled: bool) -> None:
    """Refuse a price that nothing would be multiplied with."""
    if price is not None and not is_profiled:
        raise ConfigError(f"--price got {price:g} without --profile, wanted both: hours are estimated by a profile.", hint="add `--profile`.")


@contextmanager
def open_existing(store: StoreConfig, settings: Settings) -> Iterator[ArtifactStore | None]:
    """The store where there is one already; None where the embedded one has never been started. An embedded one that sleeps is woken and put back."""
    from foundry_ray.artifacts import embedded, open_store
    from foundry_ray.clock import SystemClock
    from foundry_ray.context import Context
    from foundry_ray.observability import ConsoleReporter

    if store.uri != "embedded":
        yield open_store(store, settings=settings)
    elif not embedded.exists(settings):
        yield None
    else:  # as a command among others: it is put back by the last of them
        clock = SystemClock()
        with Context(settings=settings, clock=clock, reporter=ConsoleReporter(clock=clock), store_config=store) as context:
            yield context.store


def plan(config: PipelineConfig, *, store: ArtifactStore | None, settings: Settings) -> Plan:
    """What `foundry run` would do. `store` is None where there is none yet: then everything runs."""
    check(config)
    schema = check_data(config, settings)
    look = _Look(config, store)
    return Plan(
        pipeline=config.name,
        config=config.model_dump(mode="json"),
        stages=tuple(_stages(config, look, settings)),
        training=_training(config.teacher, look.dataset, is_here=_local_head(config.cluster, settings) is not None),
        warnings=tuple(_warnings(config, schema, settings)),
    )


def profiled(planned: Plan, config: PipelineConfig, *, store: ArtifactStore | None, settings: Settings, price: float | None = None) -> Plan:
    """The plan with a profile of its search space, for which models are built, measured and trained for a few steps. Needs torch, and no data.

    Args:
        planned: What `plan` gave for this pipeline.
        config: The pipeline.
        store: Says how many rows the data set has, where it is prepared.
        settings: Where FOUNDRY_HOME is.
        price: Of a worker-hour; that of the budget where None.

    Raises:
        ConfigError: The rows of the data set have no class.
        SearchSpaceError: No student can be built.
        ResourcesUnavailable: Not one trial fits this machine, where it is what searches.
    """
    import torch

    from foundry_ray.clock import SystemClock
    from foundry_ray.data import load_split
    from foundry_ray.observability import ConsoleReporter
    from foundry_ray.search.checks import check_imported
    from foundry_ray.search.profile import Circumstances, profile_space, scratch_tools
    from foundry_ray.search.space import load_space

    schema, clock = classes_only(check_data(config, settings), what="the profile of a search space"), SystemClock()
    check_imported(load_space(config.search.space, config.search), config.teacher.model, where=config.search.space)
    num_gpus = torch.cuda.device_count()
    dataset = _Look(config, store).output("data", keys.data(config, settings), DatasetRef)
    train = None
    if store is not None and dataset is not None and dataset.schema.kind == "tokens":
        schema, train = classes_only(dataset.schema, what="the profile of a search space"), load_split(dataset, "train", store=store)
    around = Circumstances(
        rows=_rows(config, dataset),
        num_workers=_num_workers(config, settings, num_gpus=num_gpus),
        price=config.search.budget.price_per_worker_hour if price is None else price,
        device="cuda:0" if num_gpus else "cpu",
        train=train,
    )
    with scratch_tools(config.search.latency, settings, clock=clock, reporter=ConsoleReporter(clock=clock)) as tools:
        return replace(planned, profile=profile_space(config, schema, around, tools))


def _rows(config: PipelineConfig, dataset: DatasetRef | None) -> tuple[int, int] | None:
    """Of train and val: as prepared, or as the configuration counts them."""
    split = config.data.split
    if dataset is not None:
        return dataset.splits["train"].num_rows, dataset.splits["val"].num_rows
    return (int(split.train), int(split.val)) if split.train >= 1 and split.val >= 1 else None


def _num_workers(config: PipelineConfig, settings: Settings, *, num_gpus: int) -> int | None:
    """That the local head has room for; another cluster has not been asked. Raises ResourcesUnavailable."""
    from foundry_ray.search.pool.slots import plan_slots

    head = _local_head(config.cluster, settings)
    if head is None:
        return None
    cpus = float(head.num_cpus or multiprocessing.cpu_count())
    gpus = float(num_gpus if head.num_gpus is None else head.num_gpus)
    slots = plan_slots({"CPU": cpus, "GPU": gpus}, config.search.trial)
    return slots.count * slots.num_workers


def _training(config: TeacherConfig, dataset: DatasetRef | None, *, is_here: bool) -> PlannedTraining:
    from foundry_ray.training.checks import described_precision, resolved_engine
    from foundry_ray.training.shape import shape_of

    shape, engine = shape_of(config, config.workers), resolved_engine(config)
    steps_per_epoch = dataset.splits["train"].num_rows // config.train.batch_size if dataset is not None else None
    return PlannedTraining(
        engine=engine,
        precision=described_precision(config, is_here=is_here),
        batch_size=shape.batch_size,
        num_workers=shape.num_workers,
        min_workers=config.min_workers or config.workers,
        micro_batch_size=shape.micro_batch_size,
        accumulation=shape.accumulation,
        zero_stage=shape.zero_stage if engine == "deepspeed" else None,
        steps_per_epoch=steps_per_epoch,
        num_steps=steps_per_epoch * config.train.epochs if steps_per_epoch is not None else None,
    )


def _warnings(config: PipelineConfig, schema: Schema, settings: Settings) -> Iterator[str]:
    """What a run from here would refuse, and what it would ignore."""
    from foundry_ray.training.checks import ignored

    try:
        check_run(config, schema, settings)
    except FoundryError as error:
        yield f"`foundry run` would refuse this: {error}"
    yield from ignored(config.teacher)


def _stages(config: PipelineConfig, look: _Look, settings: Settings) -> Iterator[PlannedStage]:
    data_key = keys.data(config, settings)
    yield look.at("data", data_key)
    dataset = look.dataset = look.output("data", data_key, DatasetRef)
    if dataset is None:
        yield from look.waiting("teacher", "search", "student", "evaluation", "registry")
    else:
        yield from _after_data(config, look, dataset)
    if config.serve.enabled:
        yield PlannedStage(name="serving", action="run", key="", reason="a deployment is reconciled at every run, where the gates pass")
    else:
        yield PlannedStage(name="serving", action="skipped", key="", reason="serve.enabled is false")


def _after_data(config: PipelineConfig, look: _Look, dataset: DatasetRef) -> Iterator[PlannedStage]:
    teacher_key = keys.teacher(config, dataset)
    yield look.at("teacher", teacher_key)
    teacher = look.output("teacher", teacher_key, ModelArtifact)
    if teacher is None:
        yield from look.waiting("search", "student", "evaluation", "registry")
        return
    study_key, result_key = keys.study(config, dataset, teacher)
    yield look.at("search", result_key, progress_key=study_key)
    study = look.output("search", result_key, StudyResult)
    if study is None:
        yield from look.waiting("student", "evaluation", "registry")
        return
    student_key = keys.student(config, study)
    yield look.at("student", student_key)
    student = look.output("student", student_key, ModelArtifact)
    if student is None:
        yield from look.waiting("evaluation", "registry")
        return
    report_key = keys.evaluation(config, dataset, teacher, student)
    yield look.at("evaluation", report_key)
    yield look.at("registry", keys.registry(config, student, report_key))


class _Look:
    """Looks keys up in the store, and says why a result is not there."""

    def __init__(self, config: PipelineConfig, store: ArtifactStore | None) -> None:
        self._store = store
        self._config = config
        self.dataset: DatasetRef | None = None
        self._last: Json = None
        if store is not None:
            earlier = [run_id for run_id in list_runs(store) if run_id.rsplit("-", 3)[0] == config.name]
            self._last = load_run(store, earlier[-1]).config if earlier else None

    def at(self, name: str, key: str, *, progress_key: str | None = None) -> PlannedStage:
        if self._store is None:
            return PlannedStage(name=name, action="run", key=key, reason="nothing is stored yet")
        result = read_result(self._store, name, key)
        if result is not None:
            return PlannedStage(name=name, action="reused", key=key, reason=f"equal inputs were done by run {result.run_id}")
        for prefix in PROGRESS_PREFIXES:
            if next(iter(self._store.list(f"{prefix}/{progress_key or key}/")), None) is not None:
                return PlannedStage(name=name, action="resumed", key=key, reason="work in progress lies in the store")
        return PlannedStage(name=name, action="run", key=key, reason=self._why(name))

    def _why(self, name: str) -> str:
        if self._last is None:
            return "no run of this pipeline is in the store"
        changed = sorted(path for path in _differences(self._last, self._config.model_dump(mode="json")) if keys.reads(name, path))
        return f"changed since the last run: {', '.join(changed[:5])}" if changed else "no result lies under this key"

    def waiting(self, *names: str) -> Iterator[PlannedStage]:
        for name in names:
            yield PlannedStage(name=name, action="run", key="", reason="its key hangs on the stage before")

    def output(self, name: str, key: str, kind: type[T]) -> T | None:
        result = read_result(self._store, name, key) if self._store is not None else None
        return from_json(kind, result.outputs, what=f"stages/{name}/{key}.json") if result is not None else None


def _differences(before: Json, after: Json, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    elif before != after:
        yield path
