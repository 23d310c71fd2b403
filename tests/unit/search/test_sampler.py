from __future__ import annotations

import pytest

from foundry_ray.search.events import Event
from foundry_ray.search.sampler import MAX_OBSERVATIONS, MIN_RESULTS, Sampler, observations
from foundry_ray.search.state import StudyState
from foundry_ray.types import CompressionRecipe, Objective, Param, SearchSpace

OBJECTIVES = (Objective(metric="accuracy", mode="max"), Objective(metric="size_bytes", mode="min"))
SPACE = SearchSpace(
    params=(
        Param(name="temperature", kind="float", low=1.0, high=8.0, when={"bits": (8,)}),
        Param(name="ratio", kind="float", low=0.0, high=0.62, step=0.05),
        Param(name="bits", kind="categorical", choices=(8, 32)),
        Param(name="width", kind="int", low=6, high=21, step=2),
    )
)


def _study(num_trials: int, *, num_rungs: int = 3) -> StudyState:
    state = StudyState(recipe_of=lambda params: CompressionRecipe(), num_rungs=num_rungs, max_failures=0)
    for number in range(num_trials):
        state.apply(Event(kind="ask", number=number, params={"ratio": 0.1, "bits": 32, "width": 6 + 2 * (number % 8)}))
        state.apply(Event(kind="rung", number=number, epoch=1, values={"accuracy": 0.5 + number / 1e4, "size_bytes": 1.0}))
    return state


def _sampler(kind: str = "tpe", seed: int = 0) -> Sampler:
    return Sampler(kind=kind, space=SPACE, objectives=OBJECTIVES, seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["tpe", "nsga2", "random"])
def test_a_proposal_is_a_function_of_study_seed_and_number(kind: str) -> None:
    state = _study(30)
    assert _sampler(kind).propose(state.records, 30) == _sampler(kind).propose(state.records, 30)
    assert _sampler(kind).propose(state.records, 30) != _sampler(kind).propose(state.records, 31)
    assert _sampler(kind).propose(state.records, 30) != _sampler(kind, seed=1).propose(state.records, 30)


def test_proposals_keep_the_space() -> None:
    for number in range(40):
        params = _sampler().propose({}, number).params
        assert ("temperature" in params) == (params["bits"] == 8)
        assert params["width"] in range(6, 21, 2)
        assert round(float(params["ratio"]) / 0.05, 9) % 1 == 0
        assert 0 <= float(params["ratio"]) <= 0.6


def test_tpe_learns_where_the_good_trials_are() -> None:
    state = StudyState(recipe_of=lambda params: CompressionRecipe(), num_rungs=1, max_failures=0)
    sampler = _sampler()
    for number in range(60):
        params = sampler.propose(state.records, number).params
        state.apply(Event(kind="ask", number=number, params=params))
        state.apply(Event(kind="rung", number=number, epoch=1, values={"accuracy": 1 - abs(float(params["ratio"]) - 0.3), "size_bytes": 1.0}))
    late = [abs(float(state.records[number].trial.params["ratio"]) - 0.3) for number in range(40, 60)]
    assert sum(late) / len(late) < 0.12, "random proposals would be 0.15 away"


def test_infeasible_and_failed_trials_reach_the_sampler() -> None:
    state = _study(3)
    state.apply(Event(kind="ask", number=3, params={"width": 20}))
    state.apply(Event(kind="infeasible", number=3, excess=0.5))
    state.apply(Event(kind="ask", number=4, params={"width": 20}))
    state.apply(Event(kind="failed", number=4, error="no"))
    assert [one.excess for one in observations(state.records, OBJECTIVES)] == [0, 0, 0, 0.5, 1.0]


def test_running_trials_are_seen_without_values() -> None:
    state = _study(1)
    state.apply(Event(kind="ask", number=1, params={"width": 20}))
    assert [one.losses is None for one in observations(state.records, OBJECTIVES)] == [False, True]


def test_values_are_taken_at_the_highest_rung_that_enough_trials_reached() -> None:
    state = _study(15)
    for number in range(MIN_RESULTS - 1):
        state.apply(Event(kind="start", number=number, rung=1))
        state.apply(Event(kind="rung", number=number, rung=1, epoch=3, values={"accuracy": 0.9, "size_bytes": 1.0}))
    assert len(observations(state.records, OBJECTIVES)) == 15
    state.apply(Event(kind="start", number=MIN_RESULTS, rung=1))
    state.apply(Event(kind="rung", number=MIN_RESULTS, rung=1, epoch=3, values={"accuracy": 0.9, "size_bytes": 1.0}))
    assert [one.losses for one in observations(state.records, OBJECTIVES)] == [(-0.9, 1.0)] * MIN_RESULTS


def test_tpe_is_told_at_most_the_limit_and_the_best_are_among_them() -> None:
    state = _study(MAX_OBSERVATIONS + 40)
    kept = _sampler()._most_useful(observations(state.records, OBJECTIVES))
    assert len(kept) == MAX_OBSERVATIONS
    assert min(one.losses or () for one in kept) == (-(0.5 + (MAX_OBSERVATIONS + 39) / 1e4), 1.0)


def test_a_metric_that_is_no_number_is_not_told() -> None:
    state = _study(2)
    state.apply(Event(kind="ask", number=2, params={"width": 20}))
    state.apply(Event(kind="rung", number=2, epoch=1, values={"accuracy": float("nan"), "size_bytes": 1.0}))
    assert len(observations(state.records, OBJECTIVES)) == 2
