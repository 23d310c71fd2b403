from __future__ import annotations

import pytest

from foundry_ray.config import BudgetConfig
from foundry_ray.search.budget import MIN_REPORTS, Ledger, Report, Spent, exhausted, gain_per_worker_hour
from foundry_ray.search.events import Event
from foundry_ray.search.history import Gain
from foundry_ray.testing.search import OBJECTIVES, SyntheticRunner, SyntheticStudy
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import Param, SearchSpace


def _budget(**keys: float) -> BudgetConfig:
    return BudgetConfig.model_validate({"trials": 1000, **keys})


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        (_budget(), ""),
        (_budget(trials=8), "trials"),
        (_budget(wall_time_s=99.0), "wall_time_s"),
        (_budget(worker_hours=2.0), "worker_hours"),
        (_budget(cost=3.0, price_per_worker_hour=1.5), "cost"),
        (_budget(cost=3.1, price_per_worker_hour=1.5), ""),
        (_budget(min_gain_per_worker_hour=0.2), "min_gain_per_worker_hour"),
        (_budget(min_gain_per_worker_hour=0.05), ""),
    ],
)
def test_a_spent_budget_says_its_name(budget: BudgetConfig, name: str) -> None:
    assert exhausted(budget, Spent(num_trials=8, wall_s=100.0, worker_s=7200.0, gain=0.1)) == name


def test_the_gain_is_that_of_the_last_quarter_of_the_work() -> None:
    work_s = [900.0 * (index + 1) for index in range(16)]  # four hours, a result each quarter of one
    volumes = [0.5] * 12 + [0.55, 0.55, 0.6, 0.625]
    assert gain_per_worker_hour(work_s, volumes) == pytest.approx(0.125 / 0.625)
    assert gain_per_worker_hour(work_s, [0.5] * 16) == 0.0


def test_few_results_are_no_trend() -> None:
    assert gain_per_worker_hour([float(one) for one in range(1, MIN_REPORTS)], [0.5] * (MIN_REPORTS - 1)) is None


def test_work_counts_while_it_is_done_and_also_where_it_comes_to_nothing() -> None:
    ledger = Ledger()
    ledger.saw(Event(kind="ask", number=0, at_s=0.0))
    ledger.saw(Event(kind="ask", number=1, at_s=2.0))
    assert ledger.worker_s(10.0) == 18.0
    ledger.saw(Event(kind="died", number=1, at_s=12.0))
    ledger.saw(Event(kind="rung", number=0, at_s=20.0, duration_s=3.0))
    assert ledger.worker_s(100.0) == 30.0


def test_a_postponed_trial_costs_no_work_while_it_waits() -> None:
    ledger = Ledger()
    ledger.saw(Event(kind="ask", number=0, at_s=0.0))
    ledger.saw(Event(kind="postponed", number=0, at_s=2.0))
    assert ledger.worker_s(50.0) == 2.0
    ledger.saw(Event(kind="start", number=0, at_s=50.0))
    assert ledger.worker_s(51.0) == 3.0


def test_what_a_killed_driver_was_at_counts_until_its_last_word() -> None:
    ledger = Ledger()
    for event in (Event(kind="ask", number=0, at_s=0.0), Event(kind="ask", number=1, at_s=5.0), Event(kind="open", at_s=5.0)):
        ledger.saw(event)
    assert ledger.worker_s(50.0) == 5.0
    ledger.saw(Event(kind="rung", number=0, at_s=60.0, duration_s=7.0))
    assert ledger.worker_s(60.0) == 12.0, "a job that is taken up again counts by its own word"


def _with(budget: BudgetConfig, store: MemoryStore | None = None, driver: str = "driver-1") -> SyntheticStudy:
    return SyntheticStudy(store or MemoryStore(), budget=budget, sampler="random", driver=driver)


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        (_budget(trials=7), "trials"),
        (_budget(wall_time_s=60.0), "wall_time_s"),
        (_budget(worker_hours=60 / 3600), "worker_hours"),
        (_budget(cost=1.0, price_per_worker_hour=60.0), "cost"),
        (_budget(min_gain_per_worker_hour=20.0), "min_gain_per_worker_hour"),
    ],
)
def test_a_study_ends_by_its_budget_and_says_so(budget: BudgetConfig, name: str) -> None:
    study = _with(budget)
    trials = study.run()
    assert study.coordinator.stopped_by == name
    assert 3 < len(trials) < 200
    assert not study.state.running


def test_a_study_that_ended_by_its_time_stays_ended() -> None:
    store = MemoryStore()
    num_trials = len(_with(_budget(wall_time_s=60.0), store).run())
    again = _with(_budget(wall_time_s=60.0), store, "driver-2")
    assert not again.coordinator.has_work()
    assert again.coordinator.stopped_by == "wall_time_s"
    assert len(_with(_budget(wall_time_s=90.0), store, "driver-3").run()) > num_trials


def test_a_resumed_study_counts_the_time_that_was_spent_before() -> None:
    store = MemoryStore()
    _with(_budget(wall_time_s=60.0), store).run(budget=30)
    second = _with(_budget(wall_time_s=60.0), store, "driver-2")
    assert 20 < second.coordinator.at_s < 40
    second.run()
    third = _with(_budget(wall_time_s=60.0), store, "driver-3")
    assert 60 <= third.coordinator.at_s < 100


def _gaining(store: MemoryStore, driver: str) -> SyntheticStudy:
    return _with(_budget(min_gain_per_worker_hour=3.0), store, driver)


def test_a_study_that_ended_by_its_gain_stays_ended() -> None:
    store = MemoryStore()
    expected = _gaining(store, "driver-1").run()
    again = _gaining(store, "driver-2")
    assert not again.coordinator.has_work()
    assert again.coordinator.stopped_by == "min_gain_per_worker_hour"
    assert again.state.trials() == expected


def test_a_killed_study_ends_by_its_gain_where_the_unbroken_one_does() -> None:
    whole = _gaining(MemoryStore(), "driver-1")
    expected = whole.run()
    for moment in range(20, len(whole.events), 40):
        store = MemoryStore()
        _gaining(store, "driver-1").run(budget=moment)
        assert _gaining(store, "driver-2").run() == expected, f"killed after event {moment}"


def test_a_gain_that_is_asked_for_seldom_is_the_one_that_is_asked_for_at_each_result() -> None:
    study = _with(_budget(trials=60))
    study.run()
    reports: list[Report] = []
    often = Gain(reports, study.state.records, OBJECTIVES, least=3.0)
    for report in study.coordinator.course.ledger.reports:
        reports.append(report)
        known = often.latest()
        assert (known is None) == (len(reports) < MIN_REPORTS)
    once = Gain(reports, study.state.records, OBJECTIVES, least=3.0).latest()
    assert once == known
    assert once is not None
    assert once < 3.0


def test_a_grid_ends_with_its_last_point() -> None:
    params = (Param(name="lr", kind="categorical", choices=(0.001, 0.003)), Param(name="width", kind="int", low=6, high=10, step=2))
    study = SyntheticStudy(MemoryStore(), space=SearchSpace(params=params, objectives=OBJECTIVES), sampler="grid", num_trials=50)
    assert len(study.run()) == 6
    assert study.coordinator.stopped_by == "space"


def test_infeasible_trials_count_as_trials() -> None:
    study = SyntheticStudy(MemoryStore(), runner=SyntheticRunner(max_params=1.0), num_trials=5)
    assert len(study.run()) == 5
    assert study.coordinator.stopped_by == "trials"
