"""Which observations a model is told, where there are more than it can use: the best and the newest.

TPE's cost grows with what it is told, and a Gaussian process' with its cube. What TPE makes of it are two densities: one of the best tenth (at
most 25 with one objective), one of the rest, in which the newest 25 weigh most. So the best of all and the newest leave out what counts least.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping

from foundry_ray.search.ranking import Ranking
from foundry_ray.search.samplers.observing import Observation

BEST_RATIO = 0.1
"""Share of the limit for the best: TPE's lower density is made of a tenth of what it is told."""
MAX_BEST_OF_ONE = 25
"""With one objective that density has no more than this; better ones than it takes would stand for the bad ones in the other."""


class Window:
    """At most `limit` of a growing number of observations: a function of what there is, not of how it came about."""

    def __init__(self, limit: int, num_objectives: int) -> None:
        self._limit = limit
        self._num_best = int(limit * BEST_RATIO) if num_objectives > 1 else min(int(limit * BEST_RATIO), MAX_BEST_OF_ONE)
        self._numbers: list[int] = []
        self._losses: dict[int, tuple[float, ...]] = {}
        self._ranking: Ranking | None = None

    def update(self, found: Mapping[int, Observation], changed: Iterable[int]) -> None:
        """Take note of observations that are new, other ones, or gone from `found`."""
        for number in changed:
            place = bisect_left(self._numbers, number)
            is_known = place < len(self._numbers) and self._numbers[place] == number
            if number in found and not is_known:
                insort(self._numbers, number)
            elif number not in found and is_known:
                del self._numbers[place]
            self._rank(number, found[number].losses if number in found else ())

    def chosen(self) -> list[int]:
        """Their numbers, rising."""
        if len(self._numbers) <= self._limit:
            return self._numbers
        if self._ranking is None:
            self._ranking = Ranking()
            for number, losses in self._losses.items():
                self._ranking.add(number, losses)
        kept = set(itertools.islice(self._ranking, self._num_best))
        newest = (number for number in reversed(self._numbers) if number not in kept)
        return sorted(kept.union(itertools.islice(newest, self._limit - len(kept))))

    def _rank(self, number: int, losses: tuple[float, ...]) -> None:
        """A ranking only grows: where a point changes or goes, it is made again when it is next asked for."""
        before = self._losses.pop(number, ())
        if losses:
            self._losses[number] = losses
        if before and before != losses:
            self._ranking = None
        elif losses and not before and self._ranking is not None:
            self._ranking.add(number, losses)
