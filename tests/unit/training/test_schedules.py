from __future__ import annotations

import itertools

import pytest

from foundry_ray.config import TrainConfig
from foundry_ray.training.schedules import lr_at

TOTAL = 1000
SCHEDULES = ("one_cycle", "cosine", "linear", "plateau", "constant")


def curve(schedule: str, **fields: float) -> list[float]:
    train = TrainConfig(lr=0.1, schedule=schedule, warmup_ratio=0.2, **fields)
    return [lr_at(step, TOTAL, train) for step in range(TOTAL)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_rises_to_its_peak_over_the_warm_up_and_then_never_rises(schedule: str) -> None:
    rates = curve(schedule)
    assert all(a < b for a, b in itertools.pairwise(rates[:201]))
    assert rates[200] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[200:]))


def test_each_schedule_ends_where_its_paper_says() -> None:
    assert curve("one_cycle")[0] == pytest.approx(0.1 / 25, rel=0.02)
    assert curve("one_cycle")[-1] == pytest.approx(0.1 / 10_000, rel=0.1)
    assert curve("cosine")[-1] == pytest.approx(0.0, abs=1e-6)
    assert curve("linear")[-1] == pytest.approx(0.1 / 800)
    assert curve("constant")[-1] == curve("plateau")[-1] == 0.1


def test_linear_falls_by_equal_parts() -> None:
    rates = curve("linear")
    assert rates[600] == pytest.approx(0.05)


def test_each_plateau_lowers_the_rate_by_its_factor_and_nothing_else_heeds_them() -> None:
    train = TrainConfig(lr=0.1, schedule="plateau", plateau_factor=0.5, warmup_ratio=0.2)
    assert [lr_at(500, TOTAL, train, num_plateaus=count) for count in range(3)] == pytest.approx([0.1, 0.05, 0.025])
    for schedule in set(SCHEDULES) - {"plateau"}:
        other = TrainConfig(lr=0.1, schedule=schedule)
        assert lr_at(500, TOTAL, other, num_plateaus=2) == lr_at(500, TOTAL, other)


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert lr_at(0, TOTAL, TrainConfig(lr=0.1, schedule="cosine", warmup_ratio=0.0)) == 0.1


def test_a_training_of_one_step_has_a_positive_rate() -> None:
    assert all(lr_at(0, 1, TrainConfig(schedule=name)) > 0 for name in SCHEDULES)
