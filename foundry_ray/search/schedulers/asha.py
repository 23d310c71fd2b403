"""Asynchronous successive halving, with one objective or several.

`next` is `get_job` of ASHA (arXiv 1810.05934, algorithm 2): from the highest rung down, the best trial that has not gone on yet among the best
1/eta of all that reached a rung goes on; where there is none, a new trial begins. With several objectives "best" is non-dominated
sorting with the order of the epsilon-net inside a layer, which makes it MO-ASHA (arXiv 2106.12639).
"""

from __future__ import annotations

from collections.abc import Sequence

from foundry_ray.search.schedulers.facts import Begin, Decision, Fact, GoOn, Reached
from foundry_ray.search.schedulers.rung import Rung
from foundry_ray.search.schedulers.standing import Standing


class Asha:
    """See the module.

    Args:
        levels: Epochs at the end of each rung.
        reduction_factor: eta of the paper.
    """

    def __init__(self, levels: tuple[int, ...], *, reduction_factor: float) -> None:
        self._levels = levels
        self._eta = reduction_factor
        self._standing = Standing(levels)
        self._rungs = [Rung() for _ in levels[:-1]]
        self._waiting: list[set[int]] = [set() for _ in levels[:-1]]

    @property
    def levels(self) -> tuple[int, ...]:
        return self._levels

    def saw(self, fact: Fact) -> None:
        self._standing.saw(fact)
        if isinstance(fact, Reached) and fact.rung < len(self._rungs):
            self._rungs[fact.rung].note(fact.number, fact.losses)
        for waiting in self._waiting:
            waiting.discard(fact.number)
        if fact.number in self._standing.waiting:
            self._waiting[self._standing.waiting[fact.number]].add(fact.number)

    def next(self, *, can_ask: bool) -> Decision:
        for index in reversed(range(len(self._rungs))):
            rung = self._rungs[index]
            number = rung.best_of(self._waiting[index], among=int(len(rung) / self._eta))
            if number is not None:
                return GoOn(number=number, rung=index + 1)
        return Begin() if can_ask else self._standing.nothing()

    def waiting(self) -> Sequence[tuple[int, int]]:
        return self._standing.in_order()
