"""What each stage's key is made of. Raise a stage's version here when it makes something else of the same inputs."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from foundry_ray.config import ExportConfig, PipelineConfig, Settings, semantic
from foundry_ray.plugins import IMPORT, load_import
from foundry_ray.runlog import plugin_source_sha256, stage_key
from foundry_ray.types import DatasetRef, Json, ModelArtifact, StudyResult, canonical_sha256, to_json

_VERSIONS = {"data": 1, "teacher": 2, "study": 3, "search": 2, "student": 2, "evaluation": 1, "registry": 1}
_SCHEDULER_KEYS = {
    "asha": ("rungs", "reduction_factor"),
    "hyperband": ("rungs", "reduction_factor"),
    "median": ("rungs", "min_results"),
    "pbt": ("rungs", "population", "quantile", "resample_ratio"),
    "none": (),
}
"""What each kind of scheduler decides by; the other keys of its section change nothing."""
_LEARNING = ("task", "data.augment", "seed")
_READS = {
    "data": ("data", "task", "seed"),
    "teacher": ("teacher", *_LEARNING),
    "search": ("search", "student", *_LEARNING),
    "student": ("search", "student", "export", *_LEARNING),
    "evaluation": ("gates", "search.latency", "task"),
    "registry": ("name",),
}
"""Of the configuration, what a stage's own key is made of; what it has of the stages before comes with their outputs."""


def reads(stage: str, path: str) -> bool:
    """Whether a key of the configuration, such as `search.budget`, is of a stage's own."""
    return any(f"{path}.".startswith(f"{own}.") or f"{own}.".startswith(f"{path}.") for own in _READS[stage])


def data(config: PipelineConfig, settings: Settings) -> str:
    """Key of the prepared data set. Raises DataError where the source is absent."""
    from foundry_ray.data import source_sha256

    fields: dict[str, Json] = {**semantic(config.data), "task": config.task, "seed": config.seed}
    fields.pop("augment")
    if config.data.text is None:  # so that the key of anything else stays as it was before there were texts
        fields.pop("text")
    return _key("data", fields, {"source": source_sha256(config.data, settings)})


def teacher(config: PipelineConfig, dataset: DatasetRef) -> str:
    """Key of the teacher."""
    fields: dict[str, Json] = {**semantic(config.teacher), **_learning(config)}
    return _key("teacher", fields, {"dataset": dataset.fingerprint, **_plugins(config)})


def study(config: PipelineConfig, dataset: DatasetRef, teacher: ModelArtifact) -> tuple[str, str]:
    """Key of the study (its journal), and of its result. A larger budget, another policy or another device to measure on continues the same study."""
    from foundry_ray.search.space import load_space

    search, scheduler = semantic(config.search), config.search.scheduler
    for name in ("choose", "budget", "objectives", "constraints"):  # the space has objectives and constraints, whoever set them
        search.pop(name)
    decisive = semantic(scheduler)
    search["scheduler"] = {name: decisive[name] for name in ("kind", *_SCHEDULER_KEYS[scheduler.kind])} | {"last": scheduler.rungs[-1]}
    search["latency"] = _measuring(config)
    search["space"] = to_json(load_space(config.search.space, config.search))
    fields: dict[str, Json] = {"search": search, "student": semantic(config.student), **_learning(config)}
    identity = _key("study", fields, {"dataset": dataset.fingerprint, "teacher": teacher.artifact.sha256, **_plugins(config), **_steps()})
    return identity, result(config, identity)


def result(config: PipelineConfig, study_key: str) -> str:
    """Key of what came of a study: with this budget, measured there, and chosen from by this policy."""
    budget = to_json(config.search.budget.model_dump())
    fields: dict[str, Json] = {"choose": config.search.choose, "budget": budget, "device": config.search.latency.device}
    return _key("search", fields, {"study": study_key})


def training(config: PipelineConfig) -> str:
    """What makes the result of a trial besides its parameters, the data set and the teacher: where it is equal, studies can share trials."""
    fields: dict[str, Json] = {"student": semantic(config.student), "latency": _measuring(config), **_learning(config)}
    return _key("study", fields, {**_plugins(config), **_steps()})


def student(config: PipelineConfig, study: StudyResult) -> str:
    """Key of the student: the chosen trial and the training that it goes on from, whatever the budget of the study that found it."""
    trial = study.chosen_trial
    fields: dict[str, Json] = {"number": trial.number, "params": to_json(trial.params), "recipe": to_json(trial.recipe)}
    fields["curve"] = to_json(trial.curve)
    if config.export != ExportConfig():  # so that the key of what is exported as ever stays as it was
        fields["export"] = semantic(config.export)
    return _key("student", fields, {"study": study.study_key})


def evaluation(config: PipelineConfig, dataset: DatasetRef, teacher: ModelArtifact, student: ModelArtifact) -> str:
    """Key of the report."""
    fields: dict[str, Json] = {"gates": semantic(config.gates), "latency": semantic(config.search.latency), "task": config.task}
    inputs = {"dataset": dataset.fingerprint, "teacher": teacher.artifact.sha256, "student": student.artifact.sha256}
    return _key("evaluation", fields, {**inputs, "task": _plugin("tasks", config.task)})


def registry(config: PipelineConfig, student: ModelArtifact, report_key: str) -> str:
    """Key of the registration."""
    return _key("registry", {"name": config.name}, {"student": student.artifact.sha256, "report": report_key})


def code(config: PipelineConfig) -> dict[str, str]:
    """What identifies the sources of a run besides foundry's version: the commit of the working folder, and hashes of third parties' plugins."""
    from foundry_ray.registry import commit_of

    found = {"commit": commit_of(Path.cwd()), **{f"plugin {name}": sha256 for name, sha256 in {**_plugins(config), **_steps()}.items()}}
    return {name: value for name, value in found.items() if value}


def _measuring(config: PipelineConfig) -> dict[str, Json]:
    """How latency is measured, wherever that is."""
    return {name: value for name, value in semantic(config.search.latency).items() if name != "device"}


def _learning(config: PipelineConfig) -> dict[str, Json]:
    return {"task": config.task, "augment": list(config.data.augment), "seed": config.seed}


def _plugins(config: PipelineConfig) -> dict[str, str]:
    optimizer = config.teacher.train.optimizer
    imported = {"optimizer": _imported(optimizer)} if optimizer.startswith(IMPORT) else {}
    return {"family": _plugin("models", config.teacher.model.family), "task": _plugin("tasks", config.task), **imported}


def _steps() -> dict[str, str]:
    """Third parties' recipe steps. Which of them a trial carries out is not known before, so all count."""
    entries = importlib.metadata.entry_points(group="foundry_ray.compressors")
    return {f"step {entry.name}": plugin_source_sha256(entry.load()) for entry in entries}


def _plugin(group: str, name: str) -> str:
    """Source hash of a third party's plugin, or of the user's own import; foundry's own are covered by the version."""
    if name.startswith(IMPORT):
        return _imported(name)
    for entry in importlib.metadata.entry_points(group=f"foundry_ray.{group}", name=name):
        return plugin_source_sha256(entry.load())
    return ""


def _imported(text: str) -> str:
    """Source hash of the module that an import names, and of the one that defines what it finds there."""
    found = load_import(text, what="an import")
    named = sys.modules[text.removeprefix(IMPORT).partition(":")[0]]
    return canonical_sha256([plugin_source_sha256(named), plugin_source_sha256(found)])


def _key(stage: str, fields: dict[str, Json], inputs: dict[str, str]) -> str:
    return stage_key(stage, version=_VERSIONS[stage], fields=fields, inputs=inputs)
