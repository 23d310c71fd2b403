"""Where the trials of a study stand, as every scheduler needs to know it: who runs, to which rung, and who waits at one."""

from __future__ import annotations

import math

from foundry_ray.search.schedulers.facts import Done, Fact, Left, Reached, Wait


class Standing:
    """Folds facts into who runs and who waits.

    Attributes:
        running: Number -> the rung that it runs to.
        waiting: Number -> the rung that it waits at, and from which it could be sent on. Neither who reached the last rung is here, nor who lacks
            a loss: an objective that is missing or not finite counts as the worst there is.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        self._last = len(levels) - 1
        self._stands: dict[int, int] = {}  # number -> the rung that it runs to or reached
        self.running: dict[int, int] = {}
        self.waiting: dict[int, int] = {}

    def saw(self, fact: Fact) -> None:
        """Take note of a fact."""
        if isinstance(fact, Reached):
            self._saw_reached(fact)
            return
        self.waiting.pop(fact.number, None)
        self.running.pop(fact.number, None)
        self._stands[fact.number] = self._last + 1
        if not isinstance(fact, Left):
            self.running[fact.number] = self._stands[fact.number] = fact.rung

    def _saw_reached(self, fact: Reached) -> None:
        if fact.rung < self._stands.get(fact.number, 0):  # an earlier result was measured again
            return
        self.running.pop(fact.number, None)
        self.waiting.pop(fact.number, None)
        self._stands[fact.number] = fact.rung
        if fact.rung < self._last and is_complete(fact):
            self.waiting[fact.number] = fact.rung

    def in_order(self) -> list[tuple[int, int]]:
        """(number, rung) of all that wait, the highest rung first, then the smaller number."""
        return sorted(self.waiting.items(), key=lambda one: (-one[1], one[0]))

    def nothing(self) -> Wait | Done:
        """What to answer where nothing can start: whether a running trial could change that."""
        num_below = sum(rung < self._last for rung in self.running.values())
        if not num_below:
            return Done()
        return Wait(why=f"{num_below} {'trial has' if num_below == 1 else 'trials have'} yet to report at a rung before another can go on")


def is_complete(fact: Reached) -> bool:
    """Whether every loss is known and finite."""
    return all(math.isfinite(loss) for loss in fact.losses)
