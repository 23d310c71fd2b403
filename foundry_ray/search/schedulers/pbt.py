"""Population-based training (arXiv 1711.09846): the worst members go on with the weights of the best, and with changed parameters.

Exploit is truncation selection (section 4.1.1): who ranks in the worst `quantile` at a rung takes over a member drawn from the best `quantile`;
explore is `explored`. Two things differ from the paper's setting. The population is compared at equal epochs: a rung is decided when
every member has come to it, so that what happens hangs on no worker's speed. And a member whose objective is no number is replaced
whatever its rank.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence

from foundry_ray.search.schedulers.explore import explored
from foundry_ray.search.schedulers.facts import Asked, Begin, Decision, Exploit, Fact, GoOn, Left, Reached, Started, Wait
from foundry_ray.search.schedulers.rung import Rung
from foundry_ray.search.schedulers.standing import Standing, is_complete
from foundry_ray.types import Scalar, SearchSpace


class PopulationBased:
    """See the module. With several objectives members rank in MO-ASHA's order.

    Args:
        levels: Epochs at the end of each rung.
        space: Says how parameters may change.
        population: Members. One that leaves before its first rung frees its place.
        quantile: Share of the members that is replaced, and share that replaces them; at least one member each, where there are two.
        resample_ratio: How often a parameter is drawn anew.
        seed: Who is taken over, and what changes, are functions of it, of the member and of the rung.
    """

    def __init__(self, levels: tuple[int, ...], *, space: SearchSpace, population: int, quantile: float, resample_ratio: float, seed: int) -> None:
        self._levels = levels
        self._space = space
        self._population = population
        self._quantile = quantile
        self._resample_ratio = resample_ratio
        self._seed = seed
        self._standing = Standing(levels)
        self._params: dict[int, Mapping[str, Scalar]] = {}
        self._rungs = [_Generation() for _ in levels[:-1]]

    @property
    def levels(self) -> tuple[int, ...]:
        return self._levels

    def saw(self, fact: Fact) -> None:
        self._standing.saw(fact)
        passed = self._rungs[: fact.rung] if isinstance(fact, Reached) else self._rungs
        for generation in passed:
            generation.undecided.discard(fact.number)
        if isinstance(fact, Asked) or (isinstance(fact, Started) and fact.params):
            self._params[fact.number] = fact.params
        elif isinstance(fact, Reached) and fact.rung < len(self._rungs):
            self._rungs[fact.rung].note(fact, self._params[fact.number])
        elif isinstance(fact, Left) and not any(fact.number in generation.params for generation in self._rungs):
            self._params.pop(fact.number, None)

    def next(self, *, can_ask: bool) -> Decision:
        if can_ask and len(self._params) < self._population:
            return Begin()
        for index, generation in enumerate(self._rungs):
            num_coming = sum(target <= index for target in self._standing.running.values())
            if generation.undecided and num_coming:
                members = "member has" if num_coming == 1 else "members have"
                return Wait(why=f"{num_coming} {members} yet to reach epoch {self._levels[index]}, where the population is compared")
            for number in sorted(generation.undecided):
                decision = self._decide(number, index)
                if decision is not None:
                    return decision
        return self._standing.nothing()

    def waiting(self) -> Sequence[tuple[int, int]]:
        return self._standing.in_order()

    def _decide(self, number: int, index: int) -> GoOn | Exploit | None:
        """What a member does after a rung that is complete; None where it has nothing to go on with, and nobody has."""
        generation = self._rungs[index]
        best, worst = generation.ends(self._quantile)
        if number in worst and best:
            source = random.Random(self._hash("exploit", number, index))
            donor = source.choice(best)
            params = explored(generation.params[donor], self._space, resample_ratio=self._resample_ratio, seed=self._hash("explore", number, index))
            return Exploit(number=number, donor=donor, from_rung=index, rung=index + 1, params=params)
        return GoOn(number=number, rung=index + 1) if number in generation.complete else None

    def _hash(self, purpose: str, number: int, index: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{self._seed}/{purpose}/{number}/{index}".encode()).digest()[:8], "big")


class _Generation:
    """The population at one rung.

    Attributes:
        params: Number -> the parameters that it came with.
        complete: Those that have every loss.
        undecided: Those of which it is not decided yet how they go on.
    """

    def __init__(self) -> None:
        self._rung = Rung()
        self._order: list[int] | None = None
        self.params: dict[int, Mapping[str, Scalar]] = {}
        self.complete: set[int] = set()
        self.undecided: set[int] = set()

    def note(self, fact: Reached, params: Mapping[str, Scalar]) -> None:
        """Take in a result."""
        if fact.number not in self.params:
            self.params[fact.number] = params
            self.undecided.add(fact.number)
        self.complete.discard(fact.number)
        if is_complete(fact):
            self.complete.add(fact.number)
        self._rung.note(fact.number, fact.losses)
        self._order = None

    def ends(self, quantile: float) -> tuple[list[int], set[int]]:
        """The best that can be taken over, best first, and those that are replaced."""
        if self._order is None:
            self._order = self._rung.in_order()
        share = min(math.ceil(round(quantile * len(self._order), 9)), len(self._order) // 2)
        worst = {*self._order[len(self._order) - share :], *(self.params.keys() - self.complete)}
        return [number for number in self._order[:share] if number in self.complete], worst
