"""A growing set of points with several losses in its order of preference: non-dominated layers, each in the order of its epsilon-net.

`Ranking` is told one point at a time and keeps the layers right by moving only what the new point pushes down ("efficient
non-domination level update", Li, Deb, Zhang, Zhang, IEEE Transactions on Cybernetics 47(9), 2017); the order inside a layer is worked out
when it is asked for, as far as it is asked for, and what is still true of it is kept. It is the order of MO-ASHA (arXiv 2106.12639).

Points are tuples of losses, smaller is better. Ties go to the smaller number. A point with a loss that is not finite (a metric is missing)
comes after all that have every loss; such points are equal among themselves.

Shapes: D losses, N points of a layer, M points that come into it or are taken already.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice

import numpy as np

Point = Sequence[float]
_MISSING = sys.float_info.max


class Ranking:
    """Numbered points, best first. Its answers are functions of the set of points, whatever the order in which they came."""

    def __init__(self) -> None:
        self._layers: list[_Layer] = []

    @classmethod
    def of(cls, points: Mapping[int, Point]) -> Ranking:
        """A ranking of many points at once: in rising order none pushes another down."""
        ranking = cls()
        for number in sorted(points, key=lambda number: tuple(points[number])):
            ranking.add(number, points[number])
        return ranking

    def __iter__(self) -> Iterator[int]:
        for layer in self._layers:
            yield from layer.ranked()

    def layers(self) -> list[list[int]]:
        """Numbers by layer, the front first; inside a layer they rise."""
        return [sorted(layer.members) for layer in self._layers]

    def add(self, number: int, point: Point) -> None:
        """Put a point into its layer; those of it that it dominates move down by one, and what these dominate in turn."""
        moving = _Layer.of(number, point)
        index = self._first_without_better(moving.points_DN)
        while index < len(self._layers):
            beaten_N = self._layers[index].beaten_by(moving.points_DN)
            if beaten_N.all():  # so is all below it: the layers shift by one
                break
            pushed = self._layers[index].exchange(beaten_N, moving)
            if pushed is None:
                return
            moving, index = pushed, index + 1
        self._layers.insert(index, moving)

    def best_of(self, wanted: AbstractSet[int], *, among: int) -> int | None:
        """The first of `wanted` within the first `among` points, or None where none is."""
        left = among
        for layer in self._layers:
            if left <= 0:
                return None
            if not layer.members.isdisjoint(wanted):
                found = next((number for number in islice(layer.ranked(), left) if number in wanted), None)
                if found is not None:
                    return found
            left -= len(layer.members)
        return None

    def _first_without_better(self, point_D1: np.ndarray) -> int:
        """Index of the first layer in which nothing dominates the point: whatever does so in one layer is itself dominated from each before."""
        low, high = 0, len(self._layers)
        while low < high:
            middle = (low + high) // 2
            if self._layers[middle].beats(point_D1):
                low = middle + 1
            else:
                high = middle
        return low


class _Layer:
    """Points of which none dominates another, with as much of their order as was asked for.

    The epsilon-net begins with the best in the most important loss and takes the point that is farthest from those taken, again and again, so
    that each prefix covers the layer. Losses are scaled to their range in the layer, because bytes and ratios have no common unit. A point that
    comes or goes leaves the order untouched before its own place in it, unless it stretches or shrinks a range.
    """

    _distance_N: np.ndarray
    _places_DN: np.ndarray

    def __init__(self, numbers_N: np.ndarray, points_DN: np.ndarray) -> None:
        self.points_DN = points_DN
        self.members: set[int] = set(numbers_N.tolist())
        self._numbers_N = numbers_N
        self._new: set[int] = set()
        self._forget_order()

    @classmethod
    def of(cls, number: int, point: Point) -> _Layer:
        """A layer of one point."""
        known = point if all(math.isfinite(value) for value in point) else [_MISSING] * len(point)
        return cls(np.array([number]), np.array(known, dtype=float)[:, None])

    def beats(self, point_D1: np.ndarray) -> bool:
        """Whether a member dominates the point."""
        no_worse_N = (self.points_DN <= point_D1).all(axis=0)
        return bool(no_worse_N.any()) and not (self.points_DN[:, no_worse_N] == point_D1).all()

    def beaten_by(self, points_DM: np.ndarray) -> np.ndarray:
        """Which members (N, bool) are dominated by one of the points."""
        no_better_MN = np.ones((points_DM.shape[1], self.points_DN.shape[1]), dtype=bool)
        equal_MN = no_better_MN.copy()
        for ours_N, theirs_M in zip(self.points_DN, points_DM, strict=True):
            no_better_MN &= theirs_M[:, None] <= ours_N
            equal_MN &= theirs_M[:, None] == ours_N
        return np.asarray((no_better_MN & ~equal_MN).any(axis=0))

    def exchange(self, beaten_N: np.ndarray, arrived: _Layer) -> _Layer | None:
        """Let members go and take others in. Returns those that went, None where none did."""
        went = None
        if beaten_N.any():
            went = _Layer(self._numbers_N[beaten_N], self.points_DN[:, beaten_N])
            self._drop(went.members, ~beaten_N)
        self._numbers_N = np.concatenate([self._numbers_N, arrived._numbers_N])
        self.points_DN = np.concatenate([self.points_DN, arrived.points_DN], axis=1)
        self._distance_N = np.concatenate([self._distance_N, np.full(len(arrived.members), np.inf)])
        self.members |= arrived.members
        self._new |= arrived.members
        return went

    def ranked(self) -> Iterator[int]:
        """Numbers in the order of the epsilon-net, each found when it is asked for."""
        self._refresh()
        for index in range(len(self.members)):
            if index == len(self._taken):
                self._take_next()
            yield self._taken[index]

    def _drop(self, members: set[int], kept_N: np.ndarray) -> None:
        self._numbers_N, self._distance_N = self._numbers_N[kept_N], self._distance_N[kept_N]
        self.points_DN = self.points_DN[:, kept_N]
        self.members -= members
        self._new -= members
        self._cut(next((index for index, number in enumerate(self._taken) if number in members), len(self._taken)))

    def _forget_order(self) -> None:
        self._taken: list[int] = []
        self._taken_places: list[np.ndarray] = []
        self._reach: list[float] = []  # squared distance at which each was taken
        self._distance_N = np.full(len(self.members), np.inf)  # squared, to the nearest one taken; -1 for those taken
        self._is_stale = False
        self._range: tuple[list[float], list[float]] = ([], [])

    def _cut(self, length: int) -> None:
        """Keep only so much of the order."""
        if length < len(self._taken):
            del self._taken[length:], self._taken_places[length:], self._reach[length:]
            self._is_stale = True

    def _refresh(self) -> None:
        """Make the kept order true again after points came and went."""
        low_D, high_D = self.points_DN.min(axis=1), self.points_DN.max(axis=1)
        if self._range != (low_D.tolist(), high_D.tolist()):
            self._forget_order()
            self._range = (low_D.tolist(), high_D.tolist())
        width_D = np.where(high_D > low_D, high_D - low_D, 1.0)
        self._places_DN = (self.points_DN - low_D[:, None]) / width_D[:, None]
        if self._new and self._taken:
            rows = np.flatnonzero(np.isin(self._numbers_N, list(self._new)))
            self._cut(min(self._place_in_order(int(row)) for row in rows))
        self._new.clear()

    def _place_in_order(self, row: int) -> int:
        """Where a new point stands in the kept order, or would at its end; its distance to those before it is noted."""
        number = int(self._numbers_N[row])
        first = int(np.flatnonzero(self._numbers_N == self._taken[0])[0])
        if (*self.points_DN[:, row], number) < (*self.points_DN[:, first], self._taken[0]):
            return 0
        nearest_M = np.minimum.accumulate(_squared(np.stack(self._taken_places, axis=1), self._places_DN[:, row]))
        self._distance_N[row] = nearest_M[-1]
        reach_M, taken_M = np.array(self._reach[1:]), np.array(self._taken[1:])
        wins_M = (nearest_M[:-1] > reach_M) | ((nearest_M[:-1] == reach_M) & (number < taken_M))
        return int(wins_M.argmax()) + 1 if wins_M.any() else len(self._taken)

    def _take_next(self) -> None:
        if self._is_stale:
            self._measure_again()
        if self._taken:
            self._reach.append(float(self._distance_N.max()))
            number = int(self._numbers_N[self._distance_N == self._reach[-1]].min())
            row = int(np.flatnonzero(self._numbers_N == number)[0])
        else:
            self._reach.append(math.inf)
            row = int(np.lexsort((self._numbers_N, *self.points_DN[::-1]))[0])
        self._taken.append(int(self._numbers_N[row]))
        self._taken_places.append(self._places_DN[:, row])
        self._distance_N = np.minimum(self._distance_N, _squared(self._places_DN, self._places_DN[:, row]))
        self._distance_N[row] = -1.0

    def _measure_again(self) -> None:
        self._distance_N = np.full(len(self.members), np.inf)
        for place_D in self._taken_places:
            self._distance_N = np.minimum(self._distance_N, _squared(self._places_DN, place_D))
        self._distance_N[np.isin(self._numbers_N, self._taken)] = -1.0
        self._is_stale = False


def _squared(places_DN: np.ndarray, place_D: np.ndarray) -> np.ndarray:
    """Squared distances; summed in the order of the losses, so that equal distances are equal to the last bit."""
    difference_DN = places_DN - place_D[:, None]
    return np.asarray((difference_DN * difference_DN).sum(axis=0))
