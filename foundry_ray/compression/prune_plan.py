"""How many units each coupling keeps, and which ones go: pure functions of importances. U units of one coupling."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from foundry_ray.compression.prune_params import CHANNEL_MULTIPLE, Scope

if TYPE_CHECKING:
    from torch import Tensor


def num_kept_channels(importances: Sequence[Tensor], ratio: float, *, multiples: Sequence[int] | None = None) -> list[int]:
    """How many units each coupling keeps: all but the weakest of all, to the nearest multiple, and never fewer than one multiple.

    A coupling that begins with one multiple or less is left whole. More units are never kept at a larger ratio. Where units are equal, as the
    scales of batch norms are that were never trained, each coupling loses the same share of them.

    Args:
        importances: One number per unit, for each coupling.
        ratio: Share of all units that are the weakest.
        multiples: Of each coupling; 8 for all where nobody says.
    """
    units = ((number, place / len(importance_U)) for number, importance_U in enumerate(importances) for place in range(len(importance_U)))
    values = [value for importance_U in importances for value in importance_U.tolist()]
    ranked = sorted((value, place, number) for value, (number, place) in zip(values, units, strict=True))
    gone = Counter(number for _, _, number in ranked[: math.ceil(ratio * (len(ranked) - 1))])
    counts = ((len(importance_U) - gone[number], len(importance_U)) for number, importance_U in enumerate(importances))
    return [_rounded(*both, multiple) for both, multiple in zip(counts, multiples or [CHANNEL_MULTIPLE] * len(importances), strict=True)]


def slice_counts(
    importances: Mapping[str, Tensor], origin: Mapping[str, int], share: float, *, scope: Scope, multiples: Mapping[str, int]
) -> dict[str, int]:
    """How many units each coupling keeps so that `share` of those that there were at the beginning is gone.

    Args:
        importances: Of the units that are left, by coupling.
        origin: Units of each coupling before the first slice.
        share: In [0, 1), of `origin`.
        scope: One threshold for all, or the same share of each.
        multiples: To which counts are rounded.
    """
    if scope == "group":
        return {
            name: _rounded(int(origin[name] * (1 - share) + 0.5), len(importance_U), multiples[name]) for name, importance_U in importances.items()
        }
    before, now = sum(origin[name] for name in importances), sum(map(len, importances.values()))
    ratio = share if before == now else max(0.0, 1 - before * (1 - share) / now)
    kept = num_kept_channels(list(importances.values()), ratio, multiples=[multiples[name] for name in importances])
    return dict(zip(importances, kept, strict=True))


def heads_left(importances: Mapping[str, Tensor], origin: Mapping[str, int], share: float, *, scope: Scope) -> dict[str, int]:
    """How many heads each attention keeps: as `slice_counts`, to the head, and never fewer than one."""
    if scope == "group":
        return {name: min(len(left), max(1, int(origin[name] * (1 - share) + 0.5))) for name, left in importances.items()}
    counts = {name: len(importance_U) for name, importance_U in importances.items()}
    excess = sum(counts.values()) - int(sum(origin[name] for name in importances) * (1 - share) + 0.5)
    for _, name in sorted((value, name) for name, importance_U in importances.items() for value in importance_U.tolist()):
        if excess > 0 and counts[name] > 1:
            counts[name] -= 1
            excess -= 1
    return counts


def weakest(importance_U: Tensor, num_kept: int) -> list[int]:
    """The units that go; of equal ones the first."""
    import torch

    gone: list[int] = torch.argsort(importance_U, stable=True)[: len(importance_U) - num_kept].tolist()
    return gone


def _rounded(wanted: int, present: int, multiple: int) -> int:
    if wanted == present:
        return present
    return min(present, max(multiple, int(wanted / multiple + 0.5) * multiple))
