"""Comparing points with several objectives: what a loss is, an order of preference, the front, and hypervolume.

Decides what "better" means where there is no single number. Everything works on *losses* (smaller is better in every coordinate); equal
inputs give equal answers, ties go to the earlier index. A point with a loss that is not finite comes after all others, is on no front and has no
volume. A set that grows, and its order, is `ranking.Ranking`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foundry_ray.search.ranking import Point, Ranking
from foundry_ray.types import Objective

LATENCY_FLOOR_MS = 0.1
"""Differences below this are noise of the runtime and count as equal, so that noise builds no front."""
MAX_COORDINATES = 3
"""Of a hypervolume: each one more would multiply its cost by the size of the front."""


def losses(values: Mapping[str, float], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """A trial's values as losses in the order of the objectives; a metric that is missing or not finite is infinitely bad."""
    return tuple(_loss(values.get(objective.metric, math.nan), objective) for objective in objectives)


def _loss(value: float, objective: Objective) -> float:
    if not math.isfinite(value):
        return math.inf
    if objective.metric.endswith("_ms"):
        value = math.ceil(round(value / LATENCY_FLOOR_MS, 6)) * LATENCY_FLOOR_MS
    return -value if objective.mode == "max" else value


def is_of_interest(values: Mapping[str, float], objectives: Sequence[Objective]) -> bool:
    """Whether no objective is worse than its threshold."""
    return all(
        objective.threshold is None or _loss(values.get(objective.metric, math.nan), objective) <= _loss(objective.threshold, objective)
        for objective in objectives
    )


def layers(points: Sequence[Point]) -> list[list[int]]:
    """Non-dominated sorting: indices of the front, then of the front of the rest, and so on."""
    return Ranking.of(dict(enumerate(points))).layers()


def order(points: Sequence[Point]) -> list[int]:
    """All indices, best first: by layer, inside a layer by the epsilon-net. With one coordinate this is plain sorting."""
    return list(Ranking.of(dict(enumerate(points))))


def scaled(points: Sequence[Point]) -> list[tuple[float, ...]]:
    """Each coordinate as its place in the set's range: 0 is the best of the set, 1 the worst, 2 is infinite."""
    columns = [[value for value in column if math.isfinite(value)] for column in zip(*points, strict=True)]
    ranges = [(min(column), max(column) - min(column)) if column else (0.0, 0.0) for column in columns]
    return [tuple(_place(value, *span) for value, span in zip(point, ranges, strict=True)) for point in points]


def _place(value: float, low: float, width: float) -> float:
    if not math.isfinite(value):
        return 2.0
    return (value - low) / width if width > 0 else 0.0


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that nothing dominates, in index order; of equal points all."""
    kept = _Front()
    for point in points:
        kept.add(point)
    best = set(map(tuple, kept.points_FD.tolist()))
    return [index for index, point in enumerate(points) if tuple(point) in best]


class _Front:
    """The points so far that nothing dominates, each once. F points of D losses."""

    def __init__(self) -> None:
        self.points_FD = np.empty((0, 0))

    def add(self, point: Point) -> bool:
        """Whether the front is another one now."""
        if not all(math.isfinite(value) for value in point):
            return False
        if not len(self.points_FD):
            self.points_FD = np.array([point], dtype=float)
            return True
        point_D = np.array(point, dtype=float)
        if (self.points_FD <= point_D).all(axis=1).any():
            return False
        beaten_F = (point_D <= self.points_FD).all(axis=1)
        self.points_FD = np.concatenate([self.points_FD[~beaten_F], point_D[None]])
        return True


def volume_point(values: Mapping[str, float], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """A trial's values as hypervolume counts them: losses of the three most important objectives, logarithms of times, sizes and counts.

    Half the bytes are worth the same gain wherever they are saved; halving an error is not, so accuracy stays as it is.
    """
    return tuple(_volume_loss(values.get(objective.metric, math.nan), objective) for objective in objectives[:MAX_COORDINATES])


def _volume_loss(value: float, objective: Objective) -> float:
    loss = _loss(value, objective)
    if not math.isfinite(loss) or (not objective.metric.startswith("num_") and not objective.metric.endswith(("_ms", "_bytes"))):
        return loss
    least = LATENCY_FLOOR_MS if objective.metric.endswith("_ms") else 1.0
    return math.log(max(loss, least)) if objective.mode == "min" else -math.log(max(-loss, least))


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """What a hypervolume is a share of: from the best of each loss to the worst, which is the reference."""

    best: tuple[float, ...]
    worst: tuple[float, ...]


class HypervolumeTrace:
    """The share of a box that points dominate, while they come one by one. Exact; a point that is not on the front costs next to nothing.

    Args:
        box: What it is a share of; None where there is no point to come. A side without width does not count.
    """

    def __init__(self, box: Box | None) -> None:
        self._box = box
        self._front = _Front()
        self._share = 0.0

    def add(self, point: Point) -> float:
        """Take in a point of one to three coordinates; returns the share with it, in [0, 1].

        One that is not finite everywhere is left out; one beyond the best side of the box counts as on it.
        """
        if self._front.add(point) and self._box is not None:
            self._share = self._share_of(self._box)
        return self._share

    def _share_of(self, box: Box) -> float:
        best_D, worst_D = np.array(box.best), np.array(box.worst)
        is_wide_D = worst_D > best_D
        if not is_wide_D.any():
            return 0.0
        places_FD = (self._front.points_FD - best_D)[:, is_wide_D] / (worst_D - best_D)[is_wide_D]
        return hypervolume(np.maximum(places_FD, 0.0).tolist(), [1.0] * int(is_wide_D.sum()))


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Volume that the points dominate up to `reference`, exactly, for one to three coordinates and n points in O(n log n) comparisons.

    Raises:
        ValueError: For more than three coordinates.
    """
    inside = [tuple(point) for point in points if all(a < b for a, b in zip(point, reference, strict=True))]
    if len(reference) > MAX_COORDINATES:
        raise ValueError(f"hypervolume got {len(reference)} objectives, wanted 1 to {MAX_COORDINATES}")
    flat = [(*point, *[0.0] * (MAX_COORDINATES - len(reference))) for point in inside]
    return _volume(flat, (*reference, *[1.0] * (MAX_COORDINATES - len(reference))))


def _volume(points: list[tuple[float, ...]], reference: Point) -> float:
    """By a sweep along the third coordinate that keeps the staircase of the first two (Fonseca, Paquete, Lopez-Ibanez, CEC 2006)."""
    stairs = _Staircase(reference[0], reference[1])
    total = area = 0.0
    height = -math.inf
    for x, y, z in sorted(points, key=lambda point: (point[2], point)):
        if area:
            total += area * (z - height)
        height = z
        area += stairs.add(x, y)
    return total + area * (reference[2] - height) if area else 0.0


class _Staircase:
    """The area that points in a plane dominate up to a corner: steps of rising x and falling y."""

    def __init__(self, right: float, top: float) -> None:
        self._xs: list[float] = [-math.inf, right]
        self._ys: list[float] = [top, -math.inf]

    def add(self, x: float, y: float) -> float:
        """Put in a point; returns the area that it adds."""
        last = bisect.bisect_right(self._xs, x) - 1
        if self._ys[last] <= y:
            return 0.0
        first = bisect.bisect_left(self._xs, x)
        gain, left, top, index = 0.0, x, self._ys[first - 1], first
        while True:
            gain += (self._xs[index] - left) * (top - y)
            if self._ys[index] < y:
                break
            left, top, index = self._xs[index], self._ys[index], index + 1
        self._xs[first:index], self._ys[first:index] = [x], [y]
        return gain
