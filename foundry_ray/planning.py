"""`foundry plan`: what a run would do, stage by stage, and why. Reads the configuration and the store; trains, imports and starts nothing heavy."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from foundry_ray import keys
from foundry_ray.config import PipelineConfig, Settings, StoreConfig
from foundry_ray.errors import ConfigError, OutOfRange
from foundry_ray.protocols import ArtifactStore
from foundry_ray.runlog import list_runs, load_run, read_result
from foundry_ray.stages import PROGRESS_PREFIXES, STAGES
from foundry_ray.types import DatasetRef, Json, ModelArtifact, Plan, PlannedStage, StudyResult, from_json

T = TypeVar("T")


def check(config: PipelineConfig) -> None:
    """Everything that can be wrong before anything starts: names, the space, the policy. Raises ConfigError and its kin."""
    from foundry_ray import models, tasks
    from foundry_ray.search.policy import parse_policy
    from foundry_ray.search.space import load_space

    _require("teacher.model.family", config.teacher.model.family, models.names())
    _require("task", config.task, tasks.names())
    load_space(config.search.space, config.search)
    parse_policy(config.search.choose)


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
    warnings = () if importlib.util.find_spec("deepspeed") else ("deepspeed is not installed: `foundry doctor` says how to mend it.",)
    return Plan(pipeline=config.name, config=config.model_dump(mode="json"), stages=tuple(_stages(config, store, settings)), warnings=warnings)


def _stages(config: PipelineConfig, store: ArtifactStore | None, settings: Settings) -> Iterator[PlannedStage]:
    look = _Look(config, store)
    data_key = keys.data(config, settings)
    yield look.at("data", data_key)
    dataset = look.output("data", data_key, DatasetRef)
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
        return PlannedStage(name=name, action="run", key=key, reason=self._why())

    def _why(self) -> str:
        if self._last is None:
            return "no run of this pipeline is in the store"
        changed = sorted(_differences(self._last, self._config.model_dump(mode="json")))
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
