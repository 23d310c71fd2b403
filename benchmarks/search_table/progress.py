"""How far a method got after each epoch that it spent: the hypervolume of all that it had seen by then."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.search_table.table import Table
from foundry_ray.search import pareto

Seen = Sequence[tuple[int, int]]
"""What a study trained, in order: (row, epoch), each of which costs one epoch. A student that goes on does so from where it was."""
_BOX = pareto.Box(best=(0.0, 0.0, 0.0), worst=(1.0, 1.0, 1.0))


def steps(table: Table, seen: Seen) -> list[tuple[int, float]]:
    """(epochs spent, hypervolume) whenever it grew. The volume is a share of the box between the table's best and worst values."""
    trace, grown, before = pareto.HypervolumeTrace(_BOX), list[tuple[int, float]](), 0.0
    for spent, (row, epoch) in enumerate(seen, 1):
        volume = trace.add(table.places[row][epoch - 1])
        if volume > before:
            grown.append((spent, volume))
            before = volume
    return grown


def epochs_until(grown: Sequence[tuple[int, float]], wanted: float) -> int | None:
    """Epochs after which the hypervolume was at least `wanted`; None where it never was."""
    return next((spent for spent, volume in grown if volume >= wanted), None)


def volume_at(grown: Sequence[tuple[int, float]], spent: int) -> float:
    """The hypervolume after so many epochs."""
    return max((volume for epoch, volume in grown if epoch <= spent), default=0.0)
