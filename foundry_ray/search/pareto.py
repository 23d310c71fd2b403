"""Comparing points with several objectives: layers, an order inside a layer, and hypervolume.

Decides what "better" means where there is no single number. All functions work on *losses* (smaller is better in every
coordinate) and are pure; equal inputs give equal answers, ties go to the earlier index.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from foundry_ray.types import Objective

Point = Sequence[float]
LATENCY_FLOOR_MS = 0.1
"""Differences below this are noise of the runtime and count as equal, so that noise builds no front."""


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


def dominates(first: Point, second: Point) -> bool:
    """Whether `first` is nowhere worse than `second` and somewhere better."""
    pairs = list(zip(first, second, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def layers(points: Sequence[Point]) -> list[list[int]]:
    """Non-dominated sorting: indices of the front, then of the front of the rest, and so on."""
    import numpy as np

    if not points:
        return []
    matrix = np.asarray(points, dtype=float)
    no_worse = (matrix[:, None, :] <= matrix[None, :, :]).all(axis=2)
    dominated_by = no_worse.T & ~no_worse
    remaining = np.ones(len(points), dtype=bool)
    found: list[list[int]] = []
    while remaining.any():
        front = remaining & ~(dominated_by & remaining[None, :]).any(axis=1)
        found.append([int(index) for index in np.flatnonzero(front)])
        remaining &= ~front
    return found


def epsilon_net(points: Sequence[Point]) -> list[int]:
    """All indices, ordered so that each prefix covers the set: the best in the first coordinate, then always the farthest from those taken.

    This is the order inside a front of MO-ASHA (arXiv 2106.12639, algorithm 2), with the most important objective as the seed. Coordinates are
    scaled to their range, because bytes and ratios have no common unit.
    """
    import numpy as np

    if not points:
        return []
    places = np.asarray(scaled(points))
    seed = min(range(len(points)), key=lambda index: tuple(points[index]))
    taken = [seed]
    distance = np.linalg.norm(places - places[seed], axis=1)
    distance[seed] = -1.0
    while len(taken) < len(points):
        farthest = int(np.argmax(distance))
        taken.append(farthest)
        distance = np.minimum(distance, np.linalg.norm(places - places[farthest], axis=1))
        distance[taken] = -1.0
    return taken


def scaled(points: Sequence[Point]) -> list[tuple[float, ...]]:
    """Each coordinate as its place in the set's range: 0 is the best of the set, 1 the worst, 2 is infinite."""
    columns = [[value for value in column if math.isfinite(value)] for column in zip(*points, strict=True)]
    ranges = [(min(column), max(column) - min(column)) if column else (0.0, 0.0) for column in columns]
    return [tuple(_place(value, *span) for value, span in zip(point, ranges, strict=True)) for point in points]


def _place(value: float, low: float, width: float) -> float:
    if not math.isfinite(value):
        return 2.0
    return (value - low) / width if width > 0 else 0.0


def order(points: Sequence[Point]) -> list[int]:
    """All indices, best first: by layer, inside a layer by `epsilon_net`. With one coordinate this is plain sorting."""
    ranked: list[int] = []
    for layer in layers(points):
        ranked += [layer[index] for index in epsilon_net([points[index] for index in layer])]
    return ranked


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that nothing dominates, in index order; points that miss a metric are never among them."""
    known = [index for index, point in enumerate(points) if all(math.isfinite(value) for value in point)]
    first = layers([points[index] for index in known])[:1]
    return [known[index] for layer in first for index in layer]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Volume that the points dominate up to `reference`, for one to three coordinates.

    Raises:
        ValueError: For more than three coordinates.
    """
    inside = [tuple(point) for point in points if all(a < b for a, b in zip(point, reference, strict=True))]
    if len(reference) == 1:
        return max((reference[0] - point[0] for point in inside), default=0.0)
    if len(reference) == 2:
        return _area(inside, reference)
    if len(reference) == 3:
        return _volume(inside, reference)
    raise ValueError(f"hypervolume got {len(reference)} objectives, wanted 1 to 3")


def _area(points: Sequence[Point], reference: Point) -> float:
    total, lowest = 0.0, reference[1]
    for point in sorted(tuple(point) for point in points):
        if point[1] < lowest:
            total += (reference[0] - point[0]) * (lowest - point[1])
            lowest = point[1]
    return total


def _volume(points: Sequence[Point], reference: Point) -> float:
    levels = sorted({point[2] for point in points})
    total = 0.0
    for level, above in zip(levels, [*levels[1:], reference[2]], strict=True):
        total += _area([point[:2] for point in points if point[2] <= level], reference[:2]) * (above - level)
    return total
