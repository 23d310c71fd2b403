"""What is shown of a study while it runs: the facts, for whoever draws them.

Decides nothing of a study: its brain fills a `StudyView` at most twice a second, and hands it to a reporter that has a method `study`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
