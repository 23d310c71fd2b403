"""How much a study had found, and when: the hypervolume of its results, one after another, and whether it still finds enough. Pure.

All values are put into one box, from the best to the worst of each objective, so what is told of different moments compares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from foundry_ray.search import pareto
from foundry_ray.search.budget import MIN_REPORTS, Report, gain_per_worker_hour
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import Objective, StudyProgress


def study_history(reports: Sequence[Report], records: Mapping[int, TrialRecord], objectives: Sequence[Objective]) -> tuple[StudyProgress, ...]:
    """What was known after each result, in the order in which they came."""
    volumes = hypervolumes(reports, records, objectives)
    return tuple(
        StudyProgress(at_s=one.at_s, worker_seconds=one.worker_s, epochs=one.num_epochs, num_trials=one.num_trials, hypervolume=volume)
        for one, volume in zip(reports, volumes, strict=True)
    )


def hypervolumes(reports: Sequence[Report], records: Mapping[int, TrialRecord], objectives: Sequence[Objective]) -> list[float]:
    """The share of the box of all results that those until each one dominate, with the costs and latencies that are known today."""
    values = ({**records[report.number].known, **report.values} for report in reports)
    points = [pareto.volume_point(one, objectives) for one in values]
    finite = [point for point in points if all(map(math.isfinite, point))]
    whole = pareto.Box(best=tuple(map(min, zip(*finite, strict=True))), worst=tuple(map(max, zip(*finite, strict=True)))) if finite else None
    trace = pareto.HypervolumeTrace(whole)
    return [trace.add(point) for point in points]


class Gain:
    """What a study gains for its work of late, looked at as its results come: first when there are enough, then whenever there are a fiftieth more.

    When it is looked at hangs on the number of results alone, and what was too little once stays too little. So a study that is resumed ends where
    the unbroken one does, and one that has ended by it stays ended.

    Args:
        reports: All results at rungs; they become more.
        least: The gain below which it is not looked at any more; None where nobody asks.
    """

    def __init__(
        self, reports: Sequence[Report], records: Mapping[int, TrialRecord], objectives: Sequence[Objective], *, least: float | None
    ) -> None:
        self._reports = reports
        self._records = records
        self._objectives = objectives
        self._least = least
        self._due = MIN_REPORTS
        self._latest: float | None = None

    def latest(self) -> float | None:
        """The relative gain of hypervolume per worker-hour when it was last looked at; None where it is too early to tell."""
        while self._least is not None and len(self._reports) >= self._due and (self._latest is None or self._latest >= self._least):
            self._latest = self._after(self._due)
            self._due += 1 + self._due // 50
        return self._latest

    def _after(self, num_reports: int) -> float | None:
        seen = self._reports[:num_reports]
        return gain_per_worker_hour([report.worker_s for report in seen], hypervolumes(seen, self._records, self._objectives))
