"""No scheduler: every trial runs to its end."""

from __future__ import annotations

from collections.abc import Sequence

from foundry_ray.search.schedulers.facts import Begin, Decision, Done, Fact


class RunToTheEnd:
    """One rung, the last.

    Args:
        epochs: Of a whole trial.
    """

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    @property
    def levels(self) -> tuple[int, ...]:
        return (self._epochs,)

    def saw(self, fact: Fact) -> None:
        """Nothing that happens to a trial changes what is next."""

    def next(self, *, can_ask: bool) -> Decision:
        return Begin() if can_ask else Done()

    def waiting(self) -> Sequence[tuple[int, int]]:
        return ()
