from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_ray.search.schedulers.explore import explored
from foundry_ray.search.schedulers.facts import Asked, Begin, Decision, Done, Exploit, Fact, GoOn, Left, Reached, Started, Wait
from foundry_ray.search.schedulers.pbt import PopulationBased
from foundry_ray.types import Param, Scalar, SearchSpace
from tests.unit.search import _naive as naive
from tests.unit.search._histories import drawn_losses, play, results_at

LEVELS = (1, 3, 9)
LR = Param(name="lr", kind="float", low=1e-6, high=1.0, log=True)


def _make(population: int = 8, *, seed: int = 0, quantile: float = 0.25, levels: tuple[int, ...] = LEVELS) -> PopulationBased:
    space = SearchSpace(params=(LR,))
    return PopulationBased(levels, space=space, population=population, quantile=quantile, resample_ratio=0.0, seed=seed)


def _begun(population: int, losses: Sequence[float]) -> PopulationBased:
    """All members begun, with learning rates 0.001, 0.002, ...; as many as there are losses reached the first rung."""
    scheduler = _make(population)
    for number in range(population):
        scheduler.saw(Asked(number=number, rung=0, params={"lr": 0.001 * (number + 1)}))
    for number, loss in enumerate(losses):
        scheduler.saw(Reached(number=number, rung=0, losses=(loss,)))
    return scheduler


def _carried_out(scheduler: PopulationBased) -> list[Decision]:
    """All decisions of a rung, carried out one after another."""
    found = []
    while isinstance(decision := scheduler.next(can_ask=False), (GoOn, Exploit)):
        found.append(decision)
        params = decision.params if isinstance(decision, Exploit) else {}
        scheduler.saw(Started(number=decision.number, rung=decision.rung, params=params))
    return found


def _generation(facts: Sequence[Fact], rung: int, quantile: float) -> tuple[set[int], set[int]]:
    """The best that can be taken over and the worst that are replaced, by definition."""
    results = results_at(facts, rung)
    ranked = naive.order(results)
    share = min(math.ceil(quantile * len(ranked)), len(ranked) // 2)
    unknown = {number for number in ranked if not all(map(math.isfinite, results[number]))}
    return set(ranked[:share]) - unknown, {*ranked[len(ranked) - share :], *unknown}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    population=st.integers(2, 9),
    num_slots=st.integers(1, 9),
    width=st.integers(1, 2),
    quantile=st.sampled_from([0.125, 0.25, 0.5]),
    left=st.sets(st.integers(0, 9), max_size=3),
)
def test_the_worst_take_over_the_best_of_their_rung_and_all_others_go_on(
    seed: int, population: int, num_slots: int, width: int, quantile: float, left: set[int]
) -> None:
    scheduler = _make(population, seed=seed, quantile=quantile)
    for question in play(scheduler, drawn_losses(seed, width=width), seed=seed, num_trials=12, num_slots=num_slots, left=sorted(left)):
        decision = question.decision
        if not isinstance(decision, (GoOn, Exploit)):
            continue
        best, worst = _generation(question.facts, decision.rung - 1, quantile)
        assert isinstance(decision, Exploit) == bool(decision.number in worst and best)
        if isinstance(decision, Exploit):
            assert decision.donor in best
            assert decision.from_rung == decision.rung - 1


def test_members_are_begun_first_and_no_more_than_there_are() -> None:
    scheduler = _make(2)
    for number in range(2):
        assert scheduler.next(can_ask=True) == Begin()
        scheduler.saw(Asked(number=number, rung=0))
    assert isinstance(scheduler.next(can_ask=True), Wait)


def test_a_member_that_leaves_before_its_first_rung_is_replaced_and_a_later_one_is_not() -> None:
    scheduler = _begun(3, [1.0, 2.0])
    scheduler.saw(Left(number=2, reason="infeasible"))
    assert scheduler.next(can_ask=True) == Begin()
    scheduler.saw(Asked(number=3, rung=0, params={"lr": 0.1}))
    scheduler.saw(Reached(number=3, rung=0, losses=(3.0,)))
    scheduler.saw(Started(number=0, rung=1))
    scheduler.saw(Left(number=0, reason="failed"))
    assert not isinstance(scheduler.next(can_ask=True), Begin)


def test_a_rung_is_decided_when_all_members_have_come_to_it() -> None:
    scheduler = _begun(4, [1.0, 2.0, 3.0])
    assert scheduler.next(can_ask=True) == Wait(why="1 member has yet to reach epoch 1, where the population is compared")
    scheduler.saw(Reached(number=3, rung=0, losses=(0.0,)))
    assert scheduler.next(can_ask=True) == GoOn(number=0, rung=1)


def test_a_population_that_the_budget_cuts_short_goes_on_with_what_it_has() -> None:
    scheduler = _make(8)
    for number in range(2):
        scheduler.saw(Asked(number=number, rung=0, params={"lr": 0.1}))
        scheduler.saw(Reached(number=number, rung=0, losses=(float(number),)))
    assert scheduler.next(can_ask=True) == Begin()
    assert [type(decision) for decision in _carried_out(scheduler)] == [GoOn, Exploit]


def test_who_takes_over_has_the_parameters_of_its_donor_times_a_factor() -> None:
    (exploit,) = [decision for decision in _carried_out(_begun(4, [4.0, 3.0, 2.0, 1.0])) if isinstance(decision, Exploit)]
    assert (exploit.number, exploit.donor, exploit.from_rung, exploit.rung) == (0, 3, 0, 1)
    assert exploit.params["lr"] / 0.004 in (pytest.approx(0.8), pytest.approx(1.2))


def test_a_donor_gives_the_parameters_that_it_had_at_the_rung() -> None:
    scheduler = _begun(4, [1.0, 2.0, 3.0, 4.0])
    first = {decision.number: decision for decision in _carried_out(scheduler)}
    for number, loss in enumerate([4.0, 3.0, 2.0, 1.0]):
        scheduler.saw(Reached(number=number, rung=1, losses=(loss,)))
    second = {decision.number: decision for decision in _carried_out(scheduler)}
    assert isinstance(first[3], Exploit)
    assert isinstance(second[0], Exploit)
    assert second[0].donor == 3
    assert second[0].params["lr"] / first[3].params["lr"] in (pytest.approx(0.8), pytest.approx(1.2))


def test_a_donor_that_changed_since_gives_what_it_had_at_the_rung_to_a_late_member() -> None:
    scheduler = _begun(2, [0.0, 1.0])
    _carried_out(scheduler)
    for number, loss in ((0, 1.0), (1, 0.0)):
        scheduler.saw(Reached(number=number, rung=1, losses=(loss,)))
    changed = {decision.number: decision for decision in _carried_out(scheduler)}
    assert isinstance(changed[0], Exploit)
    scheduler.saw(Asked(number=2, rung=0, params={"lr": 0.5}))
    scheduler.saw(Reached(number=2, rung=0, losses=(2.0,)))
    late = scheduler.next(can_ask=False)
    assert isinstance(late, Exploit)
    assert (late.donor, late.from_rung) == (0, 0)
    assert late.params["lr"] / 0.001 in (pytest.approx(0.8), pytest.approx(1.2))


def test_a_late_member_is_waited_for_by_those_that_are_further() -> None:
    scheduler = _begun(2, [0.0, 1.0])
    _carried_out(scheduler)
    for number in range(2):
        scheduler.saw(Reached(number=number, rung=1, losses=(0.0,)))
    scheduler.saw(Asked(number=2, rung=0, params={"lr": 0.5}))
    assert scheduler.next(can_ask=False) == Wait(why="1 member has yet to reach epoch 3, where the population is compared")


def test_members_draw_their_donors_and_factors_each_for_itself() -> None:
    exploits = [decision for decision in _carried_out(_begun(40, [float(-number) for number in range(40)])) if isinstance(decision, Exploit)]
    factors = [round(float(one.params["lr"]) / (0.001 * (one.donor + 1)), 6) for one in exploits]
    assert set(factors) == {0.8, 1.2}
    assert len({one.donor for one in exploits}) > 3


def test_members_whose_objective_is_lost_when_it_is_measured_again_are_replaced() -> None:
    scheduler = _begun(4, [0.0, 1.0, 2.0, 3.0])
    for number in (0, 1):
        scheduler.saw(Reached(number=number, rung=0, losses=(math.nan,)))
    assert [type(decision) for decision in _carried_out(scheduler)] == [Exploit, Exploit, GoOn, GoOn]


def test_a_member_without_a_number_is_replaced_and_never_taken_over() -> None:
    decided = {decision.number: decision for decision in _carried_out(_begun(4, [math.nan, math.nan, 1.0, math.nan]))}
    assert [type(decided[number]) for number in range(4)] == [Exploit, Exploit, GoOn, Exploit]
    assert {decision.donor for decision in decided.values() if isinstance(decision, Exploit)} == {2}


def test_where_nobody_has_a_number_nobody_goes_on() -> None:
    assert _begun(2, [math.nan, math.nan]).next(can_ask=False) == Done()


@pytest.mark.parametrize("num_slots", [1, 2, 8])
def test_what_happens_hangs_on_no_workers_speed(num_slots: int) -> None:
    def decisions(slots: int, seed: int) -> set[object]:
        scheduler = _make(8, seed=3)
        asked = play(scheduler, drawn_losses(1, width=1), seed=seed, num_trials=8, num_slots=slots)
        return {(one.donor, one.number, one.rung, tuple(one.params.items())) for one in (q.decision for q in asked) if isinstance(one, Exploit)}

    assert decisions(num_slots, seed=9) == decisions(3, seed=0) != set()


CHANGING = SearchSpace(
    params=(
        LR,
        Param(name="dropout", kind="float", low=0.0, high=0.5, step=0.1),
        Param(name="grad_clip", kind="int", low=1, high=20),
        Param(name="l1", kind="categorical", choices=(0.0, 1e-5)),
        Param(name="momentum", kind="float", low=0.1, high=0.9, when={"l1": (1e-5,)}),
        Param(name="l2", kind="float", low=0.1, high=0.9, when={"grad_clip": (8, 12)}),
    ),
    relations=("dropout + lr <= 0.9",),
)
POINT: Mapping[str, Scalar] = {"lr": 0.5, "dropout": 0.4, "grad_clip": 10, "l1": 0.0}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 1.0]))
def test_explored_parameters_keep_ranges_steps_conditions_and_relations(seed: int, resample_ratio: float) -> None:
    found = explored(POINT, CHANGING, resample_ratio=resample_ratio, seed=seed)
    assert ("momentum" in found) == (found["l1"] == 1e-5)
    assert ("l2" in found) == (found["grad_clip"] in (8, 12))
    assert 1e-6 <= found["lr"] <= 1.0
    assert any(math.isclose(found["dropout"], 0.1 * steps) for steps in range(1, 6)) or found["dropout"] == 0
    assert isinstance(found["grad_clip"], int)
    assert 1 <= found["grad_clip"] <= 20
    assert found["dropout"] + found["lr"] <= 0.9 + 1e-9
    assert found == explored(POINT, CHANGING, resample_ratio=resample_ratio, seed=seed)


def test_without_resampling_numbers_take_a_factor_and_choices_stay() -> None:
    found = [explored(POINT, CHANGING, resample_ratio=0.0, seed=seed) for seed in range(40)]
    assert {one["grad_clip"] for one in found} == {8, 12}
    assert {round(float(one["lr"]), 9) for one in found} == {0.4, 0.6}
    assert {one["l1"] for one in found} == {0.0}


def test_a_number_stays_in_its_range_when_a_factor_leads_out_of_it() -> None:
    found = [explored({"lr": 1.0}, SearchSpace(params=(LR,)), resample_ratio=0.0, seed=seed)["lr"] for seed in range(20)]
    assert set(found) == {0.8, 1.0}


def test_always_resampled_parameters_do_not_hang_on_the_old_ones() -> None:
    space = SearchSpace(params=(LR,))
    near, far = (explored({"lr": lr}, space, resample_ratio=1.0, seed=4) for lr in (1e-5, 0.9))
    assert near == far
    assert near["lr"] not in (1e-5, 0.9)
