"""A study at one look, for the terminal: what it cost and what ended it, its front, what mattered, and what other policies would choose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from foundry_ray.reporting import units
from foundry_ray.reporting.tables import run_summary, simple
from foundry_ray.types import StudyProgress, StudyResult, Trial

if TYPE_CHECKING:
    from foundry_ray.search.exporting import ExportedStudy
    from foundry_ray.search.extending import Extension
    from foundry_ray.search.importance import Importance
    from foundry_ray.search.overview import Alternative, Overview

_ENDED = {
    "trials": "all trials of the budget were begun (`search.budget.trials`)",
    "wall_time_s": "the time of the budget was over (`search.budget.wall_time_s`)",
    "worker_hours": "the worker-hours of the budget were spent (`search.budget.worker_hours`)",
    "cost": "the money of the budget was spent (`search.budget.cost`)",
    "min_gain_per_worker_hour": "an hour of work gained too little hypervolume (`search.budget.min_gain_per_worker_hour`)",
    "space": "every point of the space was tried",
}
_NUM_POINTS = 8


def study_summary(overview: Overview) -> RenderableType:
    """What `foundry study show` prints."""
    study = overview.study
    parts: list[RenderableType] = [Text(f"study {study.study_name} of {overview.run_id}", style="bold"), *map(Text, spending(study)), ""]
    parts += [importance_table(overview.importances), ""]
    if study.history:
        parts += [_hypervolume(study.history), ""]
    parts += [
        _alternatives(overview.alternatives, study),
        *_warnings(overview.alternatives),
        Text(f"`foundry deploy {overview.run_id} --policy POLICY` finishes and serves one.", style="dim"),
    ]
    return Group(*parts)


def spending(study: StudyResult) -> Iterator[str]:
    """What a study was, what it cost, and what ended it, in sentences."""
    counts = ", ".join(f"{number} {state}" for state, number in study.num_by_state.items() if number)
    yield f"{len(study.trials)} trials: {counts}; {len(study.pareto_front)} on the front."
    cost = f", which cost {study.cost:.2f}" if study.cost else ""
    elapsed = f" in {units.duration(study.history[-1].at_s)}" if study.history else ""
    yield f"{units.duration(study.worker_seconds)} of work{elapsed}{cost}."
    if study.stopped_by:
        yield f"No more trials were begun: {_ENDED.get(study.stopped_by, study.stopped_by)}."


def importance_table(importances: Sequence[Importance]) -> Table:
    """One line an objective: the parameters with their shares, or why nothing can be said."""
    rows = []
    for one in importances:
        after = f" after epoch {one.epoch}" if one.epoch else ""
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in one.shares.items())
        rows.append((one.metric, f"{one.num_trials}{after}", shares or f"nothing can be said: {one.why_not}"))
    return simple("which parameters mattered", ("objective", "trials", "share of what tells the best from the rest"), rows)


def _hypervolume(history: Sequence[StudyProgress]) -> Table:
    last = len(history) - 1
    points = [history[index] for index in sorted({round(place * last / (_NUM_POINTS - 1)) for place in range(_NUM_POINTS)})]
    rows = [(units.duration(point.worker_seconds), str(point.num_trials), str(point.epochs), f"{point.hypervolume:.4f}") for point in points]
    return simple("hypervolume over time", ("work", "trials", "epochs", "hypervolume"), rows, right=("work", "trials", "epochs", "hypervolume"))


def _alternatives(alternatives: Sequence[Alternative], study: StudyResult) -> Table:
    metrics = [objective.metric for objective in study.objectives]
    rows = [
        (one.policy, _marked(one.trial, study), *(units.value(metric, one.trial.values[metric]) for metric in metrics), "!" if one.warning else "")
        for one in alternatives
    ]
    names = [units.short(metric) for metric in metrics]
    return simple("what policies choose", ("policy", "trial", *names, ""), rows, right=("trial", *names))


def _warnings(alternatives: Sequence[Alternative]) -> list[Text]:
    """What `!` means, each warning once."""
    return [Text(f"! {warning}", style="yellow") for warning in dict.fromkeys(one.warning for one in alternatives if one.warning)]


def _marked(trial: Trial, study: StudyResult) -> str:
    return f"{'>' if trial.number == study.chosen else ''}{trial.number}"


def extension_summary(extension: Extension) -> RenderableType:
    """What a study began with, then how the run went."""
    return Group(Text(extension_line(extension)), "", run_summary(extension.record))


def extension_line(extension: Extension) -> str:
    """What a study began with, in a sentence."""
    earlier = f"study-{extension.extended[:8]}"
    if extension.study_key == extension.extended:
        return f"The same study, {earlier}, went on: nothing of its {extension.num_before} trials was done again."
    if extension.num_adopted:
        return f"{extension.num_adopted} of the {extension.num_before} trials of {earlier} were taken over, without being trained again."
    if extension.num_suggested:
        return f"The training is another one: the parameters of the best {extension.num_suggested} trials of {earlier} were tried first."
    return f"None of the {extension.num_before} trials of {earlier} lies in this space: it began with nothing."


def exported_study_line(exported: ExportedStudy) -> Text:
    """What was written, and the command that shows it."""
    return Text(f"Wrote {exported.num_trials} trials of {exported.study_name} to {exported.path}. `optuna-dashboard {exported.storage}` shows them.")
