"""When training has stopped getting better: pure functions of the curve, so that a resumed run decides what the unbroken one would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foundry_ray.config import TrainConfig

Curve = Sequence[Mapping[str, float]]
"""The metrics of each finished epoch, in order."""


def num_plateaus(curve: Curve, metric: str, train: TrainConfig) -> int:
    """How often `plateau_patience` epochs in a row brought no better metric. Each plateau starts the count of epochs anew.

    Args:
        curve: The finished epochs.
        metric: Its name in them; larger is better, equal is not, and neither is not-a-number.
        train: Holds the patience.
    """
    plateaus = waited = 0
    for is_better in _progress(curve, metric):
        waited = 0 if is_better else waited + 1
        if waited == train.plateau_patience:
            plateaus, waited = plateaus + 1, 0
    return plateaus


def is_over(curve: Curve, metric: str, train: TrainConfig) -> bool:
    """Whether the last `early_stopping_epochs` epochs brought no better metric; never where that is 0. Arguments as of `num_plateaus`."""
    patience = train.early_stopping_epochs
    return patience > 0 and len(curve) > patience and not any(_progress(curve, metric)[-patience:])


def _progress(curve: Curve, metric: str) -> list[bool]:
    """Per epoch, whether it is better than all before it; the first is."""
    best = float("-inf")
    progress = []
    for index, epoch in enumerate(curve):
        value = epoch[metric]
        progress.append(index == 0 or value > best)
        best = max(best, value) if value == value else best
    return progress
