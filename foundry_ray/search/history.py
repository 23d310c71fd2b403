"""How much a study had found, and when: the hypervolume of its results, one after another. Pure.

All values are put into one box, from the best to the worst of each objective, so what is told of different moments compares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from foundry_ray.search import pareto
from foundry_ray.search.budget import Report
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
    """The share of the box of all results that those until each one dominate, by what is known of them today."""
    values = (records[report.number].by_rung.get(report.rung, {}) for report in reports)
    points = [pareto.volume_point(one, objectives) for one in values]
    finite = [point for point in points if all(map(math.isfinite, point))]
    whole = pareto.Box(best=tuple(map(min, zip(*finite, strict=True))), worst=tuple(map(max, zip(*finite, strict=True)))) if finite else None
    trace = pareto.HypervolumeTrace(whole)
    return [trace.add(point) for point in points]
