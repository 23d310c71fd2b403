"""What is shown of a study while it runs: the facts, and how they look below a bar and in a line of a log.

Decides nothing of a study: its brain fills a `StudyView` at most twice a second, and hands it to a reporter that has a method `study`.
How long it still takes is the bar's to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foundry_ray.observability.times import duration

if TYPE_CHECKING:
    from rich.table import Table

_ROWS = 8
_NAME_WIDTH = 6
_SPENT = {"trials": "{} trials", "wall_time_s": "{}", "worker_hours": "{} worker-hours", "cost": "cost {}"}
_DECIMALS = {"trials": 0, "worker_hours": 3, "cost": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """A trial that a worker is busy with.

    Attributes:
        doing: In a word: `measures`, `trains`.
        epoch: Epochs that it has done.
        to_epoch: Epochs at the rung that it runs to.
        params: Its parameters, the most important first: as many are shown as a line has room for.
    """

    number: int
    doing: str
    epoch: int
    to_epoch: int
    params: Mapping[str, bool | int | float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BestValue:
    """The best value of one objective so far, and the trial that has it."""

    metric: str
    value: float
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """One budget of a study: `trials`, `wall_time_s`, `worker_hours` or `cost`; `limit` is None where there is none."""

    name: str
    used: float
    limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyView:
    """A study as it stands.

    Attributes:
        running: In the order of the trials' numbers.
        best: In the order of the objectives.
        num_by_state: Trials by state; none of 0.
        num_front: Trials that nothing dominates so far.
        waiting: Why a free worker has nothing to do; empty where none is free.
        spent: The budgets that have a limit, and the worker-hours.
        hypervolume: Of all values so far, as a share of the box up to the worst of them; None before there is one.
    """

    running: tuple[RunningTrial, ...] = ()
    best: tuple[BestValue, ...] = ()
    num_by_state: Mapping[str, int] = field(default_factory=dict)
    num_front: int = 0
    waiting: str = ""
    spent: tuple[Spending, ...] = ()
    hypervolume: float | None = None


def study_table(view: StudyView) -> Table:
    """A few lines of two columns, cut to the width of the terminal: what runs, what is best, what is spent, what waits and why."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=_NAME_WIDTH, no_wrap=True, style="dim")
    table.add_column(no_wrap=True, overflow="ellipsis")
    for name, line in _rows(view):
        table.add_row(name, Text(line, style="yellow" if name == "waits" else ""))
    return table


def study_line(view: StudyView) -> str:
    """The same in one line of a log, without the parameters."""
    running = ", ".join(f"#{trial.number} {_stand(trial)}" for trial in view.running[:_ROWS])
    parts = (
        _counts(view),
        f"runs {running}" if running else "",
        f"best {_best(view)}" if view.best else "",
        f"waits: {view.waiting}" if view.waiting else "",
    )
    return "; ".join(part for part in parts if part)


def study_outcome(view: StudyView) -> str:
    """What stands behind a study that has ended."""
    return " · ".join(part for part in (_counts(view), f"best {_best(view)}" if view.best else "") if part)


def _rows(view: StudyView) -> Iterator[tuple[str, str]]:
    for index, trial in enumerate(view.running[:_ROWS]):
        params = " ".join(f"{name}={_short(value)}" for name, value in trial.params.items())
        yield "" if index else "runs", f"#{trial.number:<4} {_stand(trial):<14} {params}"
    if len(view.running) > _ROWS:
        yield "", f"and {len(view.running) - _ROWS} more"
    if view.best:
        yield "best", _best(view)
    if view.num_by_state:
        yield "trials", _counts(view)
    if view.spent:
        yield "spent", " · ".join(map(_spending, view.spent))
    if view.waiting:
        yield "waits", view.waiting


def _stand(trial: RunningTrial) -> str:
    return f"{trial.doing} {trial.epoch}/{trial.to_epoch}"


def _best(view: StudyView) -> str:
    return " · ".join(f"{best.metric} {_value(best.metric, best.value)} (#{best.number})" for best in view.best)


def _counts(view: StudyView) -> str:
    counts = ", ".join(f"{number} {state}" for state, number in view.num_by_state.items() if number)
    front = f" · {view.num_front} on the front" if view.num_front else ""
    return counts + front + (f" · hypervolume {view.hypervolume:.3f}" if view.hypervolume is not None else "")


def _spending(spent: Spending) -> str:
    used = duration(spent.used) if spent.name == "wall_time_s" else f"{spent.used:.{_DECIMALS[spent.name]}f}"
    if spent.limit is None:
        return _SPENT[spent.name].format(used)
    limit = duration(spent.limit) if spent.name == "wall_time_s" else f"{spent.limit:.6g}"
    return _SPENT[spent.name].format(f"{used} of {limit}")


def _value(metric: str, value: float) -> str:
    return f"{value:.4f}" if metric == "accuracy" else f"{value:.3g}" if metric.endswith("_ms") else f"{value:,.0f}"


def _short(value: bool | int | float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
