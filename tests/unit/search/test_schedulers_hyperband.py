from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_ray.search.schedulers.facts import Asked, Begin, Done, Fact, GoOn, Left, Reached, Started
from foundry_ray.search.schedulers.hyperband import Hyperband
from tests.unit.search import _naive as naive
from tests.unit.search._histories import Losses, drawn_losses, play

SEATS_81 = [(81, 0), (34, 1), (15, 2), (8, 3), (5, 4)]
"""What algorithm 1 of arXiv 1603.06560 gives for R = 81 and eta = 3: trials that each bracket begins, and the rung that they begin at."""


def _halved(numbers: Sequence[int], *, s: int, s_max: int, eta: float, losses: Losses, left: Sequence[int]) -> list[set[int]]:
    """The inner loop of algorithm 1: who runs to each rung of a bracket that begins these trials. Who left has the worst loss there is."""
    kept, found = list(numbers), [set(numbers)]
    for step in range(s):
        results = {number: (math.inf,) if number in left else losses(number, s_max - s + step) for number in kept}
        num_kept = math.floor(math.floor(len(numbers) * eta**-step + 1e-9) / eta + 1e-9)
        kept = [number for number in naive.order(results)[:num_kept] if all(map(math.isfinite, results[number]))]
        found.append(set(kept))
    return found


def _played(facts: Sequence[Fact]) -> tuple[dict[int, list[int]], dict[int, list[set[int]]]]:
    """Trials by bracket as they were begun, and by bracket who ran to each rung, from the bracket's first one on."""
    begun, headed, of = defaultdict(list), defaultdict(lambda: defaultdict(set)), {}
    for fact in facts:
        if isinstance(fact, Asked):
            of[fact.number] = fact.bracket
            begun[fact.bracket].append(fact.number)
        if isinstance(fact, (Asked, Started)):
            headed[of[fact.number]][fact.rung].add(fact.number)
    return begun, {bracket: [rungs[rung] for rung in sorted(rungs)] for bracket, rungs in headed.items()}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    width=st.integers(1, 2),
    num_slots=st.integers(1, 9),
    eta=st.sampled_from([2.0, 3.0]),
    left=st.sets(st.integers(0, 39), max_size=6),
)
def test_each_bracket_keeps_those_that_the_paper_keeps(seed: int, width: int, num_slots: int, eta: float, left: set[int]) -> None:
    losses = drawn_losses(seed, width=width, levels=50)
    scheduler = Hyperband((1, 3, 9), reduction_factor=eta)
    *_, last = play(scheduler, losses, seed=seed, num_trials=40, num_slots=num_slots, left=sorted(left))
    begun, headed = _played(last.facts)
    for bracket, numbers in begun.items():
        s = 2 - bracket % 3
        wanted = _halved(numbers, s=s, s_max=2, eta=eta, losses=losses, left=sorted(left))
        assert headed[bracket] == [rung for rung in wanted if rung]


def test_brackets_begin_as_many_trials_and_as_high_as_in_the_paper_and_then_again() -> None:
    scheduler = Hyperband((1, 3, 9, 27, 81), reduction_factor=3.0)
    for number in range(sum(seats for seats, _ in SEATS_81) + 1):
        decision = scheduler.next(can_ask=True)
        assert isinstance(decision, Begin)
        filled = [sum(seats for seats, _ in SEATS_81[: bracket + 1]) for bracket in range(5)]
        bracket = next((index for index, until in enumerate(filled) if number < until), 5)
        assert (decision.bracket, decision.rung) == (bracket, [*(rung for _, rung in SEATS_81), 0][bracket])
        scheduler.saw(Asked(number=number, rung=decision.rung, bracket=decision.bracket))


def _first_bracket(scheduler: Hyperband, losses: Sequence[float]) -> None:
    for number, loss in enumerate(losses):
        scheduler.saw(Asked(number=number, rung=0, bracket=0))
        scheduler.saw(Reached(number=number, rung=0, losses=(loss,)))


def test_nobody_goes_on_before_the_rung_is_full() -> None:
    scheduler = Hyperband((1, 3, 9), reduction_factor=3.0)
    _first_bracket(scheduler, [float(number) for number in range(8)])
    assert scheduler.next(can_ask=True) == Begin(rung=0, bracket=0)
    scheduler.saw(Asked(number=8, rung=0, bracket=0))
    assert scheduler.next(can_ask=True) == Begin(rung=1, bracket=1)
    scheduler.saw(Reached(number=8, rung=0, losses=(-1.0,)))
    assert scheduler.next(can_ask=True) == GoOn(number=8, rung=1)


@pytest.mark.parametrize("reason", ["failed", "infeasible", "duplicate", "dominated"])
def test_a_trial_that_left_holds_its_seat_and_counts_as_worst(reason: str) -> None:
    scheduler = Hyperband((1, 3, 9), reduction_factor=3.0)
    _first_bracket(scheduler, [5.0, 6.0])
    for number in range(2, 9):
        scheduler.saw(Asked(number=number, rung=0, bracket=0))
        scheduler.saw(Left(number=number, reason=reason))
    for number in (0, 1):
        assert scheduler.next(can_ask=True) == GoOn(number=number, rung=1)
        scheduler.saw(Started(number=number, rung=1))
    assert scheduler.next(can_ask=True) == Begin(rung=1, bracket=1)


def test_a_bracket_that_the_budget_cuts_short_goes_on_with_what_it_has() -> None:
    scheduler = Hyperband((1, 3, 9), reduction_factor=3.0)
    _first_bracket(scheduler, [3.0, 2.0, 1.0])
    assert scheduler.next(can_ask=False) == GoOn(number=2, rung=1)
    scheduler.saw(Started(number=2, rung=1))
    scheduler.saw(Reached(number=2, rung=1, losses=(1.0,)))
    assert scheduler.next(can_ask=False) == Done()
    assert scheduler.next(can_ask=True) == Begin(rung=0, bracket=0)
    assert scheduler.waiting() == [(2, 1), (0, 0), (1, 0)]
