"""What a study has spent, and whether that is all it may spend: trials, time, work, money, or too little gain for the work. Pure.

Everything is added up from the events, so a study that is resumed, on whatever machine, counts what was spent before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foundry_ray.config import BudgetConfig
from foundry_ray.search.events import Event

_HOUR_S = 3600.0
_BEGINNINGS = ("ask", "start", "exploit")
_ENDS = ("rung", "postponed", "duplicate", "dominated", "infeasible", "died", "failed", "measured")
MIN_REPORTS = 16
"""Results before a study can end because it gains too little: the last quarter of fewer is no trend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A result at a rung, and what the study had spent by then. `values` are those that training told."""

    number: int
    values: Mapping[str, float]
    at_s: float
    worker_s: float
    num_epochs: int
    num_trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What counts against a budget. `gain` is the relative gain of hypervolume per worker-hour of late, where it is known."""

    num_trials: int
    wall_s: float
    worker_s: float
    gain: float | None = None


def exhausted(config: BudgetConfig, spent: Spent) -> str:
    """The name of the first limit that is reached; empty where there is none."""
    hours = spent.worker_s / _HOUR_S
    least = config.min_gain_per_worker_hour
    limits = {
        "trials": spent.num_trials >= config.trials,
        "wall_time_s": config.wall_time_s is not None and spent.wall_s >= config.wall_time_s,
        "worker_hours": config.worker_hours is not None and hours >= config.worker_hours,
        "cost": config.cost is not None and hours * config.price_per_worker_hour >= config.cost,
        "min_gain_per_worker_hour": least is not None and spent.gain is not None and spent.gain < least,
    }
    return next((name for name, is_reached in limits.items() if is_reached), "")


def cost(config: BudgetConfig, worker_s: float) -> float:
    """What this much work costs."""
    return worker_s / _HOUR_S * config.price_per_worker_hour


def gain_per_worker_hour(work_s: Sequence[float], volumes: Sequence[float]) -> float | None:
    """Relative gain of hypervolume per worker-hour over the last quarter of the work; None where there is too little to tell.

    Args:
        work_s: Work of all workers until each result, rising.
        volumes: Hypervolume of all values until each result, in one box.
    """
    if len(work_s) < MIN_REPORTS or work_s[-1] <= 0 or volumes[-1] <= 0:
        return None
    quarter_s = work_s[-1] / 4
    before = max((index for index, value in enumerate(work_s) if value <= work_s[-1] - quarter_s), default=0)
    return (volumes[-1] - volumes[before]) / volumes[-1] / (quarter_s / _HOUR_S)


class Ledger:
    """Adds up what the events say was spent.

    A worker is busy with a trial from the event that starts it to the one that ends its job. What an interrupted driver's workers were busy with
    counts until the last thing that it wrote; a job that is taken up again counts by its own word.

    Attributes:
        at_s: When the last event was, in seconds of the study.
        num_trials: Those that were begun, and those that were taken over.
        reports: All results at rungs, in their order.
    """

    def __init__(self) -> None:
        self.at_s = 0.0
        self.num_trials = 0
        self.reports: list[Report] = []
        self._done_s = 0.0
        self._num_epochs = 0
        self._began_s: dict[int, float] = {}
        self._sum_began_s = 0.0

    def saw(self, event: Event, *, num_epochs: int = 0) -> None:
        """Take note of an event; `num_epochs` were trained for it."""
        if event.kind == "open":
            for number in list(self._began_s):
                self._end(number, self.at_s)
        self.at_s = max(self.at_s, event.at_s)
        if event.kind in ("ask", "adopt"):
            self.num_trials += 1
        if event.number not in self._began_s:
            self._done_s += event.duration_s
        elif event.kind in _ENDS:
            self._end(event.number, event.at_s)
        if event.kind in _BEGINNINGS:
            self._began_s[event.number] = event.at_s
            self._sum_began_s += event.at_s
        if event.kind == "rung":
            self._num_epochs += num_epochs
            self.reports.append(self._report(event))

    def worker_s(self, at_s: float) -> float:
        """Seconds that workers were busy until then, all together."""
        return self._done_s + len(self._began_s) * at_s - self._sum_began_s

    def _end(self, number: int, at_s: float) -> None:
        began_s = self._began_s.pop(number)
        self._done_s += at_s - began_s
        self._sum_began_s -= began_s

    def _report(self, event: Event) -> Report:
        return Report(
            number=event.number,
            values=event.values,
            at_s=event.at_s,
            worker_s=self.worker_s(event.at_s),
            num_epochs=self._num_epochs,
            num_trials=self.num_trials,
        )
