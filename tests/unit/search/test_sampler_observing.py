from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from foundry_ray.search.samplers.kinds import MIN_RESULTS
from foundry_ray.search.samplers.observing import Observation, Observer
from foundry_ray.search.samplers.window import Window
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import TrialState
from tests.unit.search import _sampling as small

OBJECTIVES = (small.ACCURACY, small.SIZE)
LOW = {"accuracy": 0.5, "size_bytes": 1.0}
HIGH = {"accuracy": 0.9, "size_bytes": 1.0}
PARAMS = {"ratio": 0.1, "bits": 32, "width": 8}


def _seen(records: Mapping[int, TrialRecord], enough: int | None = MIN_RESULTS) -> dict[int, Observation]:
    observer = Observer(OBJECTIVES, enough=enough)
    observer.update(records, list(records))
    return observer.found


def _records(*given: TrialRecord) -> dict[int, TrialRecord]:
    return {one.trial.number: one for one in given}


def test_values_are_taken_at_the_highest_rung_that_enough_trials_reached() -> None:
    records = {number: small.record(number, PARAMS, LOW, *([HIGH] if number < MIN_RESULTS - 1 else [])) for number in range(15)}
    assert [one.losses for one in _seen(records).values()] == [(-0.5, 1.0)] * 15
    records[14] = small.record(14, PARAMS, LOW, HIGH)
    assert [one.losses for one in _seen(records).values()] == [(-0.9, 1.0)] * MIN_RESULTS


def test_generations_are_compared_at_the_lowest_rung() -> None:
    records = {number: small.record(number, PARAMS, LOW, HIGH) for number in range(15)}
    assert {one.losses for one in _seen(records, enough=None).values()} == {(-0.5, 1.0)}


def test_infeasible_failed_and_dominated_trials_are_seen_as_broken_constraints() -> None:
    dominated = small.record(3, PARAMS, state=TrialState.INFEASIBLE)
    records = _records(
        small.record(0, PARAMS, LOW),
        small.record(1, PARAMS, state=TrialState.INFEASIBLE, excess=0.5),
        small.record(2, PARAMS, state=TrialState.FAILED),
        replace(dominated, trial=replace(dominated.trial, dominated="not faster")),
    )
    assert [one.excess for one in _seen(records).values()] == [0, 0.5, 1.0, 1.0]


def test_a_trial_that_breaks_a_constraint_on_another_device_loses_its_values() -> None:
    records = _records(small.record(0, PARAMS, LOW, state=TrialState.INFEASIBLE, excess=0.2))
    assert _seen(records)[0] == Observation(number=0, params=PARAMS, excess=0.2)


def test_a_postponed_trial_is_seen_as_just_missing_a_constraint_until_it_begins() -> None:
    waiting = small.record(0, PARAMS, state=TrialState.WAITING)
    waiting = replace(waiting, known={"size_bytes": 1.0})
    [seen] = _seen(_records(waiting)).values()
    assert 0 < seen.excess < 0.01
    assert not seen.losses
    [seen] = _seen(_records(replace(waiting, trial=replace(waiting.trial, state=TrialState.RUNNING)))).values()
    assert seen.is_running


def test_running_trials_are_seen_without_values() -> None:
    records = _records(small.record(0, PARAMS, LOW), small.record(1, PARAMS, state=TrialState.RUNNING))
    assert [one.is_running for one in _seen(records).values()] == [False, True]


def test_a_trial_that_waits_below_the_rung_is_not_seen() -> None:
    records = {number: small.record(number, PARAMS, LOW, *([HIGH] if number < MIN_RESULTS else [])) for number in range(MIN_RESULTS + 1)}
    assert MIN_RESULTS not in _seen(records)


def test_a_metric_that_is_no_number_is_not_seen() -> None:
    records = _records(small.record(0, PARAMS, {**LOW, "accuracy": float("nan")}))
    assert _seen(records) == {}


def test_a_duplicate_is_seen_with_the_values_of_its_original_as_these_come() -> None:
    copy = small.record(1, {**PARAMS, "width": 10}, state=TrialState.STOPPED, duplicate_of=0)
    records = _records(small.record(0, PARAMS, state=TrialState.RUNNING), copy)
    observer = Observer(OBJECTIVES, enough=MIN_RESULTS)
    observer.update(records, [0, 1])
    assert observer.found[1].is_running
    records[0] = small.record(0, PARAMS, LOW)
    assert observer.update(records, [0]) == {0, 1}
    assert observer.found[1] == Observation(number=1, params={**PARAMS, "width": 10}, losses=(-0.5, 1.0))


def test_results_of_other_parameters_are_not_seen() -> None:
    records = {number: replace(small.record(number, PARAMS, LOW, HIGH), own_from=1) for number in range(MIN_RESULTS)}
    assert _seen({0: records[0]}) == {}
    assert _seen(records)[0].losses == (-0.9, 1.0)


@pytest.mark.parametrize("num_objectives", [1, 2])
def test_a_window_holds_the_best_and_the_newest(num_objectives: int) -> None:
    found = {number: Observation(number=number, params=PARAMS, losses=(float(number), float(number))[:num_objectives]) for number in range(100)}
    window = Window(20, num_objectives)
    window.update(found, list(found))
    assert window.chosen() == [0, 1, *range(82, 100)]


def test_a_window_that_holds_all_leaves_nothing_out() -> None:
    found = {number: Observation(number=number, params=PARAMS, excess=1.0) for number in range(20)}
    window = Window(20, 1)
    window.update(found, list(found))
    assert window.chosen() == list(range(20))
