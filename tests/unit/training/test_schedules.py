from __future__ import annotations

import itertools

import pytest

from foundry_ray.config import TrainConfig
from foundry_ray.training.schedules import lr_at

TOTAL = 1000


def curve(schedule: str, **fields: float) -> list[float]:
    train = TrainConfig(lr=0.1, schedule=schedule, warmup_ratio=0.2, **fields)
    return [lr_at(step, TOTAL, train) for step in range(TOTAL)]


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_the_rate_rises_to_its_peak_over_the_warm_up_and_then_never_rises(schedule: str) -> None:
    rates = curve(schedule)
    assert all(a < b for a, b in itertools.pairwise(rates[:201]))
    assert rates[200] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[200:]))


def test_each_schedule_ends_where_its_paper_says() -> None:
    assert curve("one_cycle")[0] == pytest.approx(0.1 / 25, rel=0.02)
    assert curve("one_cycle")[-1] == pytest.approx(0.1 / 10_000, rel=0.1)
    assert curve("cosine")[-1] == pytest.approx(0.0, abs=1e-6)
    assert curve("constant")[-1] == 0.1


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert lr_at(0, TOTAL, TrainConfig(lr=0.1, schedule="cosine", warmup_ratio=0.0)) == 0.1


def test_a_training_of_one_step_has_a_positive_rate() -> None:
    assert all(lr_at(0, 1, TrainConfig(schedule=name)) > 0 for name in ("one_cycle", "cosine", "constant"))
