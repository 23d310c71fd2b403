from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from foundry_ray.config import TrainConfig
from foundry_ray.training.stopping import is_over, num_plateaus

TRAIN = TrainConfig(plateau_patience=2, early_stopping_epochs=3)


def curve(values: Sequence[float]) -> list[dict[str, float]]:
    return [{"accuracy": value} for value in values]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0),
        ([0.1, 0.2, 0.3], 0),
        ([0.3, 0.2], 0),
        ([0.3, 0.2, 0.3], 1),  # equal is not better
        ([0.3, 0.2, 0.2, 0.2], 1),  # the count begins anew
        ([0.3, 0.2, 0.2, 0.2, 0.2], 2),
        ([0.3, 0.2, 0.4, 0.2], 0),
        ([math.nan, math.nan, 0.1, math.nan, math.nan], 1),
    ],
)
def test_a_plateau_is_a_patience_of_epochs_without_a_better_metric(values: Sequence[float], expected: int) -> None:
    assert num_plateaus(curve(values), "accuracy", TRAIN) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], False), ([0.3, 0.2, 0.2], False), ([0.3, 0.2, 0.2, 0.3], True), ([0.3, 0.2, 0.2, 0.4], False), ([0.3, 0.1, 0.4, 0.1, 0.1, 0.1], True)],
)
def test_training_is_over_after_its_epochs_without_a_better_metric(values: Sequence[float], expected: bool) -> None:
    assert is_over(curve(values), "accuracy", TRAIN) is expected


def test_early_stopping_is_off_at_0() -> None:
    assert not is_over(curve([0.5] * 100), "accuracy", TrainConfig())
