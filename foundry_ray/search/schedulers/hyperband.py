"""Hyperband: brackets of synchronous successive halving that begin at different rungs (arXiv 1603.06560, algorithm 1).

With rungs 0 .. s_max as the resources r eta^i of the paper, bracket s begins n = ceil((s_max + 1) / (s + 1) eta^s) trials at rung s_max - s, keeps
the best floor(n_i / eta) of its i-th rung, n_i = floor(n eta^-i), and so on to the last one; s goes from s_max down to 0, and around again until the
budget ends. A rung is decided when all of its trials have a result or have left: who failed, broke a constraint or repeats another one holds a
seat and counts as worst. No worker waits for that: the next bracket begins when all seats of one are taken. Where the budget ends
inside a bracket, it goes on with the trials that it has, and n is their number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from foundry_ray.search.schedulers.facts import Asked, Begin, Decision, Fact, GoOn, Reached, Started
from foundry_ray.search.schedulers.rung import Rung
from foundry_ray.search.schedulers.standing import Standing


class Hyperband:
    """See the module. With several objectives the best are those of MO-ASHA's order.

    Args:
        levels: Epochs at the end of each rung.
        reduction_factor: eta of the paper.
    """

    def __init__(self, levels: tuple[int, ...], *, reduction_factor: float) -> None:
        self._levels = levels
        self._eta = reduction_factor
        self._standing = Standing(levels)
        self._brackets: list[_Bracket] = []
        self._active: set[int] = set()
        self._bracket_of: dict[int, int] = {}

    @property
    def levels(self) -> tuple[int, ...]:
        return self._levels

    def saw(self, fact: Fact) -> None:
        self._standing.saw(fact)
        if isinstance(fact, Asked):
            self._bracket_of[fact.number] = fact.bracket
            while len(self._brackets) <= fact.bracket:
                self._brackets.append(self._new(len(self._brackets)))
        index = self._bracket_of[fact.number]
        self._brackets[index].saw(fact)
        self._active.add(index)
        if self._brackets[index].is_over():
            self._active.remove(index)

    def next(self, *, can_ask: bool) -> Decision:
        for index in sorted(self._active):
            promotion = self._brackets[index].promotion(is_growing=can_ask)
            if promotion is not None:
                return promotion
        if not can_ask:
            return self._standing.nothing()
        index = next((index for index in sorted(self._active) if not self._brackets[index].is_full), len(self._brackets))
        return Begin(rung=self._new(index).first_rung, bracket=index)

    def waiting(self) -> Sequence[tuple[int, int]]:
        return self._standing.in_order()

    def _new(self, index: int) -> _Bracket:
        s_max = len(self._levels) - 1
        return _Bracket(s=s_max - index % len(self._levels), s_max=s_max, eta=self._eta, standing=self._standing)


class _Bracket:
    """One bracket. `standing` is the study's, and is told of each fact before the bracket."""

    def __init__(self, *, s: int, s_max: int, eta: float, standing: Standing) -> None:
        self.first_rung = s_max - s
        self._num_seats = math.ceil(round((s_max + 1) / (s + 1) * eta**s, 9))
        self._eta = eta
        self._standing = standing
        self._rungs = [Rung() for _ in range(s_max + 1)]
        self._headed: list[set[int]] = [set() for _ in range(s_max + 1)]  # who ran or runs to each rung

    @property
    def is_full(self) -> bool:
        """Whether every seat is taken."""
        return len(self._headed[self.first_rung]) >= self._num_seats

    def saw(self, fact: Fact) -> None:
        """Take note of a fact about one of its trials."""
        if isinstance(fact, (Asked, Started)):
            self._headed[fact.rung].add(fact.number)
        elif isinstance(fact, Reached):
            self._rungs[fact.rung].note(fact.number, fact.losses)

    def promotion(self, *, is_growing: bool) -> GoOn | None:
        """Who goes on now, from the lowest rung that is decided and not carried out, or None."""
        if is_growing and not self.is_full:
            return None
        num_begun = len(self._headed[self.first_rung])
        for step, rung in enumerate(range(self.first_rung, len(self._rungs) - 1)):
            if any(self._standing.running.get(number) == rung for number in self._headed[rung]):
                return None
            waiting = {number for number in self._headed[rung] if self._standing.waiting.get(number) == rung}
            keep = int(int(num_begun / self._eta**step) / self._eta)
            number = self._rungs[rung].best_of(waiting, among=keep)
            if number is not None:
                return GoOn(number=number, rung=rung + 1)
        return None

    def is_over(self) -> bool:
        """Whether it has begun all that it will, and nothing that it began will go on."""
        if not self.is_full or any(number in self._standing.running for headed in self._headed for number in headed):
            return False
        return self.promotion(is_growing=False) is None
