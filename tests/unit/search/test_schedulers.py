from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_ray.config import SchedulerConfig
from foundry_ray.search.schedulers import make_scheduler
from foundry_ray.search.schedulers.facts import Asked, Begin, Done, Exploit, GoOn, Left, Reached, Scheduler, Started, Wait
from foundry_ray.types import Objective, Param, SearchSpace
from tests.unit.search._histories import drawn_losses, gone_from, play, results_at

KINDS = ("asha", "hyperband", "median", "pbt", "none")
SPACE = SearchSpace(params=(Param(name="lr", kind="float", low=1e-4, high=0.1, log=True),), objectives=(Objective(metric="accuracy", mode="max"),))


def _make(kind: str, rungs: tuple[int, ...] = (1, 3, 9)) -> Scheduler:
    return make_scheduler(SchedulerConfig(kind=kind, rungs=rungs), SPACE, seed=5)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), num_slots=st.integers(1, 5), left=st.sets(st.integers(0, 15), max_size=4))
def test_facts_told_again_lead_to_the_same_decisions_however_often_it_is_asked(kind: str, seed: int, num_slots: int, left: set[int]) -> None:
    losses = drawn_losses(seed, width=1)
    asked = list(play(_make(kind), losses, seed=seed, num_trials=16, num_slots=num_slots, left=sorted(left)))
    again = _make(kind)
    known = 0
    for question in asked:
        for fact in question.facts[known:]:
            again.saw(fact)
        known = len(question.facts)
        again.next(can_ask=not question.can_ask)
        again.waiting()
        assert again.next(can_ask=question.can_ask) == again.next(can_ask=question.can_ask) == question.decision


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), num_slots=st.integers(1, 5), left=st.sets(st.integers(0, 15), max_size=4))
def test_who_goes_on_has_come_to_the_rung_before_and_no_further(kind: str, seed: int, num_slots: int, left: set[int]) -> None:
    scheduler = _make(kind)
    for question in play(scheduler, drawn_losses(seed, width=1), seed=seed, num_trials=16, num_slots=num_slots, left=sorted(left)):
        assert question.can_ask or not isinstance(question.decision, Begin)
        if isinstance(question.decision, (GoOn, Exploit)):
            before = question.decision.rung - 1
            assert question.decision.number in results_at(question.facts, before).keys() - gone_from(question.facts, before)
    assert all(rung < len(scheduler.levels) - 1 for _, rung in scheduler.waiting())


def test_without_a_scheduler_a_trial_runs_to_the_last_rung_at_once() -> None:
    scheduler = _make("none")
    assert scheduler.levels == (9,)
    assert scheduler.next(can_ask=True) == Begin()
    scheduler.saw(Asked(number=0, rung=0))
    assert scheduler.next(can_ask=False) == Done()
    assert not scheduler.waiting()


@pytest.mark.parametrize("kind", ["asha", "hyperband", "median"])
def test_while_a_trial_below_the_last_rung_runs_the_answer_is_to_wait(kind: str) -> None:
    scheduler = _make(kind)
    scheduler.saw(Asked(number=0, rung=0))
    assert scheduler.next(can_ask=False) == Wait(why="1 trial has yet to report at a rung before another can go on")
    scheduler.saw(Left(number=0, reason="infeasible"))
    assert scheduler.next(can_ask=False) == Done()


def test_a_trial_on_its_last_stretch_is_not_waited_for() -> None:
    scheduler = _make("asha")
    for fact in (Asked(number=0, rung=0), Reached(number=0, rung=0, losses=(0.0,)), Started(number=0, rung=2)):
        scheduler.saw(fact)
    assert scheduler.next(can_ask=False) == Done()


def test_who_waits_is_told_from_the_highest_rung_down() -> None:
    scheduler = _make("asha")
    for number in range(4):
        scheduler.saw(Asked(number=number, rung=0))
        scheduler.saw(Reached(number=number, rung=0, losses=(float(number),)))
    scheduler.saw(Started(number=3, rung=1))
    assert scheduler.waiting() == [(0, 0), (1, 0), (2, 0)]
    scheduler.saw(Reached(number=3, rung=1, losses=(0.0,)))
    assert scheduler.waiting() == [(3, 1), (0, 0), (1, 0), (2, 0)]


def test_an_adopted_trial_that_comes_with_several_results_waits_at_the_highest() -> None:
    scheduler = _make("asha")
    for fact in (Asked(number=0, rung=0), Reached(number=0, rung=0, losses=(0.0,)), Reached(number=0, rung=1, losses=(0.0,))):
        scheduler.saw(fact)
    assert scheduler.waiting() == [(0, 1)]


def test_a_trial_without_an_objective_neither_waits_nor_goes_on() -> None:
    scheduler = _make("asha")
    for number, loss in enumerate((float("nan"), 1.0, 2.0)):
        scheduler.saw(Asked(number=number, rung=0))
        scheduler.saw(Reached(number=number, rung=0, losses=(loss,)))
    assert scheduler.waiting() == [(1, 0), (2, 0)]
    assert scheduler.next(can_ask=False) == GoOn(number=1, rung=1)


def test_an_earlier_result_that_is_measured_again_moves_nobody() -> None:
    scheduler, again = _make("asha"), Reached(number=0, rung=0, losses=(5.0,))
    for fact in (Asked(number=0, rung=0), Reached(number=0, rung=0, losses=(0.0,)), Started(number=0, rung=1), again):
        scheduler.saw(fact)
    assert scheduler.waiting() == []
    assert isinstance(scheduler.next(can_ask=False), Wait)
    for fact in (Reached(number=0, rung=1, losses=(0.0,)), again):
        scheduler.saw(fact)
    assert scheduler.waiting() == [(0, 1)]


def test_a_trial_that_left_does_not_come_back_when_it_is_measured_again() -> None:
    scheduler = _make("asha")
    result = Reached(number=0, rung=0, losses=(0.0,))
    for fact in (Asked(number=0, rung=0), result, Left(number=0, reason="failed"), result):
        scheduler.saw(fact)
    assert scheduler.waiting() == []
