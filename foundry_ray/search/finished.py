"""A finished study as the store tells it: for whoever reads, exports, extends it or chooses from it again."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from foundry_ray.config import PipelineConfig, validate
from foundry_ray.errors import ArtifactNotFound, ConfigError, SearchError
from foundry_ray.protocols import ArtifactStore, Reporter
from foundry_ray.search import constraints
from foundry_ray.search.policy import choose_again, parse_policy
from foundry_ray.search.transfer import read_identity
from foundry_ray.types import ModelArtifact, RunRecord, SearchSpace, StudyResult, from_json

T = TypeVar("T")


def study_of(record: RunRecord) -> StudyResult:
    """The study of a run. Raises ArtifactNotFound where it has none that is finished."""
    return output_of(record, "search", StudyResult)


def output_of(record: RunRecord, name: str, kind: type[T]) -> T:
    """What a stage of a run made. Raises ArtifactNotFound where it has not done it, and so has no finished study."""
    stage = record.stage(name)
    if stage is None or stage.outputs is None:
        raise ArtifactNotFound(
            f"Run {record.run_id} has no finished study.", hint=f"`foundry resume {record.run_id}` finishes it.", key=record.run_id
        )
    return from_json(kind, stage.outputs, what=f"the {name} stage of {record.run_id}")


def config_of(record: RunRecord) -> PipelineConfig:
    """The configuration of a run, every key of it. Raises ConfigError for one of another foundry."""
    return validate(PipelineConfig, record.config, where=f"the record of run {record.run_id}")


def teacher_accuracy(record: RunRecord) -> float:
    """Of the teacher on val, with which students are compared.

    Raises:
        ArtifactNotFound: The run has no teacher.
        SearchError: The teacher was not measured.
    """
    accuracy = output_of(record, "teacher", ModelArtifact).val_metrics.get("accuracy")
    if accuracy is None:
        raise SearchError("the teacher has no accuracy on val, wanted one to compare students with.", hint="`--fresh teacher` trains it again.")
    return accuracy


def space_of(study: StudyResult, store: ArtifactStore) -> SearchSpace | None:
    """The space that a study searched; None for one that did not keep it, as none did at first."""
    try:
        return read_identity(store, study.study_key).space
    except ConfigError:
        return None


def limits_of(study: StudyResult, store: ArtifactStore) -> list[constraints.Constraint]:
    """The hard constraints of a study; none where it did not keep its space."""
    space = space_of(study, store)
    return [constraints.parse(text, where="search.constraints") for text in (space.constraints if space is not None else ())]


def choose(record: RunRecord, text: str, *, store: ArtifactStore, reporter: Reporter) -> StudyResult:
    """The study of a run with the trial that another policy chooses from it, on val; a reporter is told where that is less than what is asked for.

    Raises:
        ArtifactNotFound: The run has no finished study.
        ConfigError: The policy is none, or names a trial that cannot be chosen.
        NoFeasibleTrial: No trial can be chosen.
    """
    study, policy = study_of(record), parse_policy(text, key="the policy")
    choice = choose_again(study, policy, limits_of(study, store), teacher_accuracy=teacher_accuracy(record))
    if choice.warning:
        reporter.warn(choice.warning)
    return replace(study, chosen=choice.number)
