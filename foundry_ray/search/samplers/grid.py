"""The grid: every point of a space once, in an order that the seed shuffles.

Shuffled, because a study may end before the grid does: any prefix is then an even sample of it, and not the corner where the first parameter is
at its lowest.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

from foundry_ray.errors import SearchSpaceError
from foundry_ray.search import relations
from foundry_ray.search.points import in_order, is_active, limits
from foundry_ray.search.samplers.proposal import Proposal, hashed
from foundry_ray.search.samplers.tried import Tried
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import Param, Scalar, SearchSpace

MAX_POINTS = 100_000
"""More are no grid that anybody searches; listing these takes about a second."""


class Grid:
    """Proposes the points that no trial has yet, those of other origin (adopted from an earlier study, say) included.

    Attributes:
        num_points: All that keep the conditions and the relations.
    """

    num_draws = 1
    avoids_tried = False

    def __init__(self, space: SearchSpace, *, seed: int, tried: Tried) -> None:
        self._points = points(space)
        self._tried = tried
        self._next = 0
        self.num_points = len(self._points)
        random.Random(hashed(f"{seed}/grid")).shuffle(self._points)

    def update(self, records: Mapping[int, TrialRecord], changed: Sequence[int]) -> None:
        """Pass over what is tried by now."""
        while self._next < self.num_points and self._points[self._next] in self._tried:
            self._next += 1

    def draw(self, number: int, attempt: int) -> Proposal:
        """The first point that is left. Raises SearchSpaceError where none is."""
        if self._next == self.num_points:
            message = f"trial {number} was asked of a grid of {self.num_points} points, which are all tried."
            raise SearchSpaceError(message, hint="refine a `step`, or choose another `search.sampler`.")
        return Proposal(params=self._points[self._next])


def points(space: SearchSpace) -> list[dict[str, Scalar]]:
    """All points that keep the conditions and the relations, parameter by parameter in rising order.

    Raises:
        SearchSpaceError: A parameter is continuous, there are more than `MAX_POINTS`, or there is none.
    """
    kept = relations.of(space)
    axes = [(param, _values(param)) for param in in_order(space.params)]
    whole = list(itertools.islice(_points(axes, {}), MAX_POINTS + 1))
    if len(whole) > MAX_POINTS:
        message = f"the grid of this space has more than {MAX_POINTS:,} points, wanted at most that many."
        raise SearchSpaceError(message, hint="enlarge a `step`, name fewer choices, or choose `search.sampler: qmc`.")
    found = [point for point in whole if all(relation.holds(point) for relation in kept)]
    if not found:
        raise SearchSpaceError(f"none of {len(whole):,} points of the grid keeps all relations, wanted at least one.", hint="loosen a relation.")
    return found


def _points(axes: Sequence[tuple[Param, Sequence[Scalar]]], chosen: dict[str, Scalar]) -> Iterator[dict[str, Scalar]]:
    if not axes:
        yield chosen
        return
    (param, values), *rest = axes
    if not is_active(param, chosen):
        yield from _points(rest, chosen)
        return
    for value in values:
        yield from _points(rest, {**chosen, param.name: value})


def _values(param: Param) -> Sequence[Scalar]:
    if param.kind == "categorical":
        return param.choices
    low, high = limits(param)
    if param.kind == "int":
        return range(int(low), int(high) + 1, int(param.step or 1))
    if low == high:
        return (low,)
    if param.step is None:
        message = f"search.sampler is grid, but {param.name} is continuous from {low:g} to {high:g}, wanted finitely many values."
        raise SearchSpaceError(message, hint=f"give `params.{param.name}` a `step` or choices, or choose `search.sampler: qmc`.", param=param.name)
    return [round(low + index * param.step, 12) for index in range(round((high - low) / param.step) + 1)]
