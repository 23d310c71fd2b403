"""The definitions, written down as plainly as they can be: what the fast structures are compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Point = tuple[float, ...]


def order(points: Mapping[int, Point]) -> list[int]:
    """Non-dominated sorting, inside a layer the epsilon-net; points that miss a loss at the end, by number."""
    known = {number: point for number, point in points.items() if all(map(math.isfinite, point))}
    ranked = [number for layer in layers(known) for number in _epsilon_net({number: known[number] for number in layer})]
    return ranked + sorted(points.keys() - known.keys())


def layers(points: Mapping[int, Point]) -> list[list[int]]:
    """Again and again, those that nothing left dominates."""
    left, found = dict(points), []
    while left:
        found.append(sorted(number for number, point in left.items() if not any(dominates(other, point) for other in left.values())))
        left = {number: point for number, point in left.items() if number not in found[-1]}
    return found


def dominates(first: Point, second: Point) -> bool:
    """Whether `first` is nowhere worse than `second` and somewhere better."""
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))


def _epsilon_net(points: Mapping[int, Point]) -> list[int]:
    spans = [(min(column), max(column)) for column in zip(*points.values(), strict=True)]
    places = {
        number: [(value - low) / (high - low) if high > low else 0.0 for value, (low, high) in zip(point, spans, strict=True)]
        for number, point in points.items()
    }
    taken = [min(points, key=lambda number: (points[number], number))]
    while len(taken) < len(points):
        left = sorted(points.keys() - set(taken))
        taken.append(max(left, key=lambda number: (min(_squared(places[number], places[one]) for one in taken), -number)))
    return taken


def _squared(first: Sequence[float], second: Sequence[float]) -> float:
    return sum((a - b) * (a - b) for a, b in zip(first, second, strict=True))
