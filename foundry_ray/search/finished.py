"""A finished study as the record of its run tells it: for whoever reads, exports, extends it or chooses from it again."""

from __future__ import annotations

from typing import TypeVar

from foundry_ray.config import PipelineConfig, validate
from foundry_ray.errors import ArtifactNotFound, ConfigError
from foundry_ray.search.space import load_space
from foundry_ray.types import ModelArtifact, RunRecord, SearchSpace, StudyResult, from_json

T = TypeVar("T")


def study_of(record: RunRecord) -> StudyResult:
    """The study of a run. Raises ArtifactNotFound where it has none that is finished."""
    return _output(record, "search", StudyResult)


def config_of(record: RunRecord) -> PipelineConfig:
    """The configuration of a run, every key of it. Raises ConfigError for one of another foundry."""
    return validate(PipelineConfig, record.config, where=f"the record of run {record.run_id}")


def teacher_accuracy(record: RunRecord) -> float:
    """Of the teacher on val, with which students are compared. Raises ArtifactNotFound."""
    return _output(record, "teacher", ModelArtifact).val_metrics.get("accuracy", 0.0)


def space_of(record: RunRecord) -> SearchSpace | None:
    """The space that a run searched, as its file says now; None where there is no such file any more, or it says something else."""
    try:
        config = config_of(record)
        return load_space(config.search.space, config.search)
    except ConfigError:
        return None


def _output(record: RunRecord, name: str, kind: type[T]) -> T:
    stage = record.stage(name)
    if stage is None or stage.outputs is None:
        raise ArtifactNotFound(
            f"Run {record.run_id} has no finished study.", hint=f"`foundry resume {record.run_id}` finishes it.", key=record.run_id
        )
    return from_json(kind, stage.outputs, what=f"the {name} stage of {record.run_id}")
