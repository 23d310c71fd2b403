from __future__ import annotations

import itertools

import pytest

from foundry_ray.config import BudgetConfig, SchedulerConfig
from foundry_ray.search.profile.effort import Played, expected_distinct, over_budget, play, study_effort
from foundry_ray.search.schedulers import make_scheduler
from foundry_ray.types import Param, SearchSpace, StudyEffort

SPACE = SearchSpace(params=(Param(name="lr", kind="float", low=1e-3, high=1e-2),))


def _played(num_trials: int, *, num_objectives: int = 1, **scheduler: object) -> Played:
    config = SchedulerConfig.model_validate({"rungs": (1, 3, 9), **scheduler})
    points = itertools.repeat({"lr": 0.005})
    return play(make_scheduler(config, SPACE, seed=0), points, num_trials=num_trials, num_objectives=num_objectives, seed=0)


def test_without_a_scheduler_every_trial_takes_all_epochs() -> None:
    assert _played(5, kind="none") == Played(num_trials=5, epochs=9.0)


@pytest.mark.parametrize("num_objectives", [1, 3])
def test_asha_sends_about_a_third_on_from_each_rung(num_objectives: int) -> None:
    played = _played(243, kind="asha", num_objectives=num_objectives)
    at_least = 1 + 2 / 3 + 6 / 9
    assert at_least - 0.1 < played.epochs < 1.8 * at_least


def test_hyperband_takes_what_its_brackets_add_up_to() -> None:
    """Brackets of 9 trials from epoch 1, 5 from epoch 3 and 3 from epoch 9."""
    played = _played(17, kind="hyperband")
    assert played.epochs == ((9 * 1 + 3 * 2 + 1 * 6) + (5 * 3 + 1 * 6) + 3 * 9) / 17


def test_the_finalists_epochs_are_counted() -> None:
    assert _played(2, kind="asha") == Played(num_trials=2, epochs=9.0)


def test_a_population_is_all_trials_that_there_are() -> None:
    played = _played(50, kind="pbt", population=8)
    assert played == Played(num_trials=8, epochs=9.0)


def test_many_trials_take_as_many_epochs_each_as_those_that_are_played_through() -> None:
    played = _played(1_000_000, kind="none")
    assert played == Played(num_trials=1_000_000, epochs=9.0)


@pytest.mark.parametrize(
    ("counts", "num_trials", "wanted"),
    [
        ([1] * 64, 10, 10.0),  # all differ
        ([1] * 64, 1000, 1000.0),
        ([1] * 16, 1000, 16 + 936 / 4),  # a quarter can be trained, and no two of them are the same
        ([64], 10, 1.0),
        ([16] * 4, 64, 4.0),  # four students, and no further ones are to be expected
        ([16] * 4, 1000, 4.0),
        ([32, 32], 2, 1 + 32 / 63),
        ([], 10, 0.0),
    ],
)
def test_duplicates_are_expected_as_the_sample_has_them(counts: list[int], num_trials: int, wanted: float) -> None:
    assert expected_distinct(counts, num_drawn=64, num_trials=num_trials) == pytest.approx(wanted)


def _effort(*, epoch_s: float | None = 10.0, num_workers: int | None = 4) -> StudyEffort:
    played = Played(num_trials=100, epochs=3.0)
    return study_effort(played, num_trained=90, epoch_s=epoch_s, prepare_s=1.8, num_workers=num_workers, price=2.5)


def test_hours_and_cost_are_those_of_epochs_and_preparations() -> None:
    effort = _effort()
    assert effort.num_trained == 90
    assert effort.worker_hours == pytest.approx((90 * 3 * 10 + 100 * 1.8) / 3600)
    assert effort.hours == pytest.approx(effort.worker_hours / 4)
    assert effort.cost == pytest.approx(effort.worker_hours * 2.5)


def test_what_is_not_known_is_not_made_up() -> None:
    assert (_effort(num_workers=None).hours, _effort(num_workers=None).worker_hours) == (None, pytest.approx(0.8))
    assert (_effort(epoch_s=None).worker_hours, _effort(epoch_s=None).hours, _effort(epoch_s=None).cost) == (None, None, None)


def test_limits_that_end_a_study_early_are_told() -> None:
    budget = BudgetConfig(trials=100, wall_time_s=10_000, worker_hours=0.4, cost=1.0, price_per_worker_hour=2.5)
    assert list(over_budget(_effort(), budget)) == [
        "search.budget.worker_hours is 0.4, but 100 trials are expected to take 0.8: it ends the study after about 50 of them.",
        "search.budget.cost is 1, but 100 trials are expected to take 2: it ends the study after about 50 of them.",
    ]
