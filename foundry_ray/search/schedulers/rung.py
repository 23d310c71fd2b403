"""One rung: who reached it with which losses, and who is best among them."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from foundry_ray.search.ranking import Ranking


class Rung:
    """Everyone who reached it keeps the place, also who went on since or never can."""

    def __init__(self) -> None:
        self._losses: dict[int, tuple[float, ...]] = {}
        self._ranking: Ranking | None = Ranking()

    def __len__(self) -> int:
        return len(self._losses)

    def note(self, number: int, losses: tuple[float, ...]) -> None:
        """Take in a result; a second one of the same trial, as after a move to another device, takes the place of the first."""
        if number in self._losses:
            self._ranking = None
        self._losses[number] = losses
        if self._ranking is not None:
            self._ranking.add(number, losses)

    def best_of(self, wanted: AbstractSet[int], *, among: int) -> int | None:
        """The best of `wanted` that is among the best so many here, or None."""
        if self._ranking is None:
            self._ranking = Ranking.of(self._losses)
        return self._ranking.best_of(wanted, among=among)

    def in_order(self) -> list[int]:
        """All numbers, best first."""
        return list(Ranking.of(self._losses))
