"""Median stopping: a trial whose best result so far is worse than what the others had on average by then stops.

The rule of Google Vizier (Golovin et al., KDD 2017, section 3.2.2): trial x stops at step s if its best objective until s is strictly worse than the
median of the running averages, until s, of the other trials' objectives. Steps are the rungs; the others are all that reached the
rung before, finished or not. The verdict is given when a trial reaches a rung, and stands.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Sequence

from foundry_ray.search.schedulers.facts import Begin, Decision, Fact, GoOn, Reached
from foundry_ray.search.schedulers.standing import Standing


class Median:
    """See the module. One objective only.

    Args:
        levels: Epochs at the end of each rung.
        min_results: Others that must have reached a rung before anybody is stopped there.
    """

    def __init__(self, levels: tuple[int, ...], *, min_results: int) -> None:
        self._levels = levels
        self._min_results = min_results
        self._standing = Standing(levels)
        self._averages: list[list[float]] = [[] for _ in levels[:-1]]  # of each rung, rising
        self._judged: list[set[int]] = [set() for _ in levels[:-1]]
        self._passed: set[int] = set()  # and wait to go on

    @property
    def levels(self) -> tuple[int, ...]:
        return self._levels

    def saw(self, fact: Fact) -> None:
        self._standing.saw(fact)
        if isinstance(fact, Reached) and fact.rung < len(self._judged) and fact.number not in self._judged[fact.rung]:
            self._judge(fact)
        self._passed &= self._standing.waiting.keys()

    def next(self, *, can_ask: bool) -> Decision:
        rungs = self._standing.waiting
        number = min(self._passed, key=lambda number: (-rungs[number], number), default=None)
        if number is not None:
            return GoOn(number=number, rung=rungs[number] + 1)
        return Begin() if can_ask else self._standing.nothing()

    def waiting(self) -> Sequence[tuple[int, int]]:
        return self._standing.in_order()

    def _judge(self, fact: Reached) -> None:
        curve = _until(self._levels[fact.rung], fact)
        others = self._averages[fact.rung]
        if len(others) < self._min_results or min(curve) <= statistics.median(others):
            self._passed.add(fact.number)
        self._judged[fact.rung].add(fact.number)
        bisect.insort(others, math.fsum(curve) / len(curve))


def _until(epoch: int, fact: Reached) -> list[float]:
    """The losses after each epoch until then; what is not finite is infinitely bad."""
    losses = [loss for at, loss in fact.curve if at <= epoch] or [fact.losses[0]]
    return [loss if math.isfinite(loss) else math.inf for loss in losses]
