"""Which trials of a run to show, and in which order. Pure."""

from __future__ import annotations

from foundry_ray.errors import ArtifactNotFound, ConfigError
from foundry_ray.types import RunRecord, StudyResult, Trial, from_json


def leaderboard(record: RunRecord, *, only_front: bool = False, sort: str | None = None) -> tuple[StudyResult, tuple[Trial, ...]]:
    """The study of a run and its trials: chosen first, then the front, then by number; or by `sort`, best first.

    Raises:
        ArtifactNotFound: The run has no finished study.
        ConfigError: No trial has a value called `sort`.
    """
    stage = record.stage("search")
    if stage is None or stage.outputs is None:
        raise ArtifactNotFound(
            f"Run {record.run_id} has no finished study.", hint=f"`foundry resume {record.run_id}` finishes it.", key=record.run_id
        )
    study = from_json(StudyResult, stage.outputs, what=f"study of {record.run_id}")
    chosen = [trial for trial in study.trials if not only_front or trial.number in study.pareto_front]
    return study, tuple(_sorted(study, chosen, sort))


def _sorted(study: StudyResult, trials: list[Trial], sort: str | None) -> list[Trial]:
    if sort is None:
        return sorted(trials, key=lambda trial: (trial.number != study.chosen, trial.number not in study.pareto_front, trial.number))
    if sort == "number":
        return sorted(trials, key=lambda trial: trial.number)
    names = sorted({name for trial in trials for name in (*trial.values, *trial.params)})
    if sort not in names:
        raise ConfigError(f"--sort got {sort!r}, wanted one of {', '.join(['number', *names])}.", hint="name a metric or a parameter.")
    maximised = any(objective.metric == sort and objective.mode == "max" for objective in study.objectives)
    having = [trial for trial in trials if sort in trial.values or sort in trial.params]
    ordered = sorted(having, key=lambda trial: _sortable(trial, sort), reverse=maximised)
    return ordered + [trial for trial in trials if trial not in having]


def _sortable(trial: Trial, key: str) -> tuple[bool, float, str]:
    value = trial.values.get(key, trial.params.get(key))
    return (isinstance(value, str), value if isinstance(value, (int, float)) else 0.0, str(value))
