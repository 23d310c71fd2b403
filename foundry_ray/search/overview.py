"""A finished study at one look: its trials, which parameters mattered, what other policies would choose. Reads, and decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from foundry_ray.errors import NoFeasibleTrial
from foundry_ray.protocols import ArtifactStore
from foundry_ray.search.finished import limits_of, space_of, study_of, teacher_accuracy
from foundry_ray.search.importance import Importance, importances
from foundry_ray.search.policy import choose_again, parse_policy
from foundry_ray.types import RunRecord, StudyResult, Trial

POLICIES = (
    "most accurate",
    "fastest within 1.0 point of the teacher",
    "fastest within 3.0 points of the teacher",
    "smallest within 1.0 point of the teacher",
    "smallest within 3.0 points of the teacher",
    "knee",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """What a policy would choose; `warning` where that is less than what the policy asks for."""

    policy: str
    trial: Trial
    warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A study with what follows from it."""

    run_id: str
    study: StudyResult
    teacher_accuracy: float
    importances: tuple[Importance, ...]
    alternatives: tuple[Alternative, ...]


def overview(record: RunRecord, store: ArtifactStore) -> Overview:
    """Of the study of a run. Raises ArtifactNotFound where it has none that is finished."""
    study, accuracy = study_of(record), teacher_accuracy(record)
    limits = limits_of(study, store)
    trials = {trial.number: trial for trial in study.trials}
    found = []
    for policy in POLICIES:
        try:
            choice = choose_again(study, parse_policy(policy), limits, teacher_accuracy=accuracy)
        except NoFeasibleTrial:
            continue
        found.append(Alternative(policy=policy, trial=trials[choice.number], warning=choice.warning))
    return Overview(
        run_id=record.run_id,
        study=study,
        teacher_accuracy=accuracy,
        importances=importances(study, space_of(study, store)),
        alternatives=tuple(found),
    )
