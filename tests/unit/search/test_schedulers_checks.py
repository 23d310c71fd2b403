from __future__ import annotations

import pytest

from foundry_ray.config import SchedulerConfig
from foundry_ray.errors import ConfigError, SearchSpaceError
from foundry_ray.search.schedulers import check_scheduler
from foundry_ray.search.schedulers.explore import CHANGEABLE
from foundry_ray.types import Objective, Param, SearchSpace

ONE = (Objective(metric="accuracy", mode="max"),)
TWO = (*ONE, Objective(metric="size_bytes", mode="min"))


def _space(*names: str, objectives: tuple[Objective, ...] = ONE) -> SearchSpace:
    return SearchSpace(params=tuple(Param(name=name, kind="float", low=0.1, high=1.0) for name in names), objectives=objectives)


@pytest.mark.parametrize("kind", ["asha", "hyperband", "median", "pbt", "none"])
def test_what_can_work_is_let_pass(kind: str) -> None:
    check_scheduler(SchedulerConfig(kind=kind), _space(*CHANGEABLE), trials=16)


@pytest.mark.parametrize("kind", ["hyperband", "median", "pbt"])
def test_comparing_at_rungs_needs_two(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"rungs is \[9\] and search.scheduler.kind is {kind}, wanted at least two rungs") as caught:
        check_scheduler(SchedulerConfig(kind=kind, rungs=(9,)), _space("lr"), trials=16)
    assert "rungs: [3, 9]" in caught.value.hint


@pytest.mark.parametrize("kind", ["asha", "none"])
def test_one_rung_is_enough_where_nobody_is_compared(kind: str) -> None:
    check_scheduler(SchedulerConfig(kind=kind, rungs=(9,)), _space("width", objectives=TWO), trials=1)


def test_a_median_of_several_objectives_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"kind is median and there are 2 objectives, wanted one") as caught:
        check_scheduler(SchedulerConfig(kind="median"), _space("lr", objectives=TWO), trials=16)
    assert "keep `accuracy` alone" in caught.value.hint


@pytest.mark.parametrize("name", ["width", "prune_ratio", "weight_bits", "optimizer", "batch_size", "sparsify.ratio"])
def test_a_population_cannot_change_what_a_model_is_made_of(name: str) -> None:
    with pytest.raises(SearchSpaceError, match=rf"varies {name} and search.scheduler.kind is pbt") as caught:
        check_scheduler(SchedulerConfig(kind="pbt"), _space("lr", name), trials=16)
    assert caught.value.param == name
    assert "asha" in caught.value.hint


def test_a_population_larger_than_the_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"population is 8 and search.budget.trials is 4, wanted at least as many trials") as caught:
        check_scheduler(SchedulerConfig(kind="pbt"), _space("lr"), trials=4)
    assert "raise `search.budget.trials` to 8" in caught.value.hint
