"""Which points of a space a study has tried, whoever proposed them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from foundry_ray.search.state import TrialRecord
from foundry_ray.types import Scalar

_Point = frozenset[tuple[str, Scalar]]


class Tried:
    """The parameters of all trials. A trial whose parameters changed stands for the new ones."""

    def __init__(self) -> None:
        self._by_number: dict[int, _Point] = {}
        self._count: Counter[_Point] = Counter()

    def __contains__(self, params: Mapping[str, Scalar]) -> bool:
        return self._count[frozenset(params.items())] > 0

    def update(self, records: Mapping[int, TrialRecord], changed: Iterable[int]) -> None:
        """Take note of records that are new or changed."""
        for number in changed:
            point = frozenset(records[number].trial.params.items())
            before = self._by_number.get(number)
            if point == before:
                continue
            if before is not None:
                self._count[before] -= 1
            self._by_number[number] = point
            self._count[point] += 1
