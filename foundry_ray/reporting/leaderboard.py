"""Which trials of a study to show, in which order, and why each ended as it did. Pure."""

from __future__ import annotations

from foundry_ray.errors import ConfigError
from foundry_ray.types import StudyResult, Trial, TrialState

_ROOM = 36
"""Characters for parameters, with the space between them, that a line of 100 leaves beside three objectives."""


def leaderboard(study: StudyResult, *, only_front: bool = False, sort: str | None = None) -> tuple[Trial, ...]:
    """The trials of a study: chosen first, then the front, then by number; or by `sort`, best first.

    Raises:
        ConfigError: No trial has a value called `sort`.
    """
    chosen = [trial for trial in study.trials if not only_front or trial.number in study.pareto_front]
    return tuple(_sorted(study, chosen, sort))


def why_ended(trial: Trial) -> str:
    """Why a trial was not trained to the end; empty for one that was."""
    if trial.dominated:
        return f"no faster than the teacher: {trial.dominated}"
    if trial.error and trial.state is not TrialState.COMPLETE:
        return trial.error
    return f"stopped after {trial.resource_used} epoch{'s' if trial.resource_used != 1 else ''}" if trial.state is TrialState.STOPPED else ""


def columns(trials: tuple[Trial, ...], preferred: tuple[str, ...]) -> tuple[str, ...]:
    """The parameters to show: those that matter, where that is known; else those that differ; as many as a line has room for, and one at least."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    differing = [name for name in names if len({trial.params.get(name) for trial in trials}) > 1]
    shown: list[str] = []
    for name in preferred or differing or names:
        if name in names and (not shown or sum(len(one) + 2 for one in (*shown, name)) <= _ROOM):
            shown.append(name)
    return tuple(shown)


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
