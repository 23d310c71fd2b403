"""How any sampler proposes out of a finite table: its proposal becomes the nearest row that was not proposed before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.search_table.table import Row
from foundry_ray.types import Param, Scalar, SearchSpace


class Candidates:
    """The rows of a table for one study. The same for all methods, so that none tries a student twice and none knows more than its own results.

    Distance is Euclidean over parameters scaled to [0, 1] (their exponents, where the space is logarithmic); choices are equal or 1 apart; a tie
    goes to the earlier row.
    """

    def __init__(self, space: SearchSpace, rows: Sequence[Row]) -> None:
        self._params = space.params
        self._rows = rows
        self._spots = [self._spot(row.params) for row in rows]
        self._numbers = {_identity(row.params): number for number, row in enumerate(rows)}
        self._free = set(range(len(rows)))

    @property
    def num_free(self) -> int:
        """Rows that were not proposed yet."""
        return len(self._free)

    def take(self, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """The parameters of the nearest free row, which is free no longer."""
        spot = self._spot(params)
        nearest = min(self._free, key=lambda number: (_distance(spot, self._spots[number]), number))
        self._free.remove(nearest)
        return dict(self._rows[nearest].params)

    def number(self, params: Mapping[str, Scalar]) -> int:
        """Which row has exactly these parameters."""
        return self._numbers[_identity(params)]

    def _spot(self, params: Mapping[str, Scalar]) -> tuple[float | str, ...]:
        return tuple(_scaled(param, params[param.name]) for param in self._params)


def _identity(params: Mapping[str, Scalar]) -> tuple[tuple[str, Scalar], ...]:
    return tuple(sorted(params.items()))


def _scaled(param: Param, value: Scalar) -> float | str:
    """A number's place in its range; of a choice its name."""
    if param.kind == "categorical":
        return str(value)
    assert param.low is not None
    assert param.high is not None
    if param.log:
        return math.log(float(value) / param.low) / math.log(param.high / param.low)
    return (float(value) - param.low) / (param.high - param.low)


def _distance(first: Sequence[float | str], second: Sequence[float | str]) -> float:
    """Squared."""
    return sum(float(a != b) if isinstance(a, str) or isinstance(b, str) else (a - b) ** 2 for a, b in zip(first, second, strict=True))
