from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_ray.search.schedulers.facts import Asked, Fact, GoOn, Reached, Started
from foundry_ray.search.schedulers.median import Median
from tests.unit.search._histories import drawn_losses, gone_from, play

LEVELS = (1, 3, 9)


def _passes(facts: Sequence[Fact], index: int, min_results: int) -> bool:
    """Golovin et al. 2017, section 3.2.2, for the trial that reached a rung with this fact."""
    fact = facts[index]
    assert isinstance(fact, Reached)
    curve = [loss if math.isfinite(loss) else math.inf for _, loss in fact.curve]
    others = [other for other in facts[:index] if isinstance(other, Reached) and other.rung == fact.rung]
    averages = [statistics.fmean(loss if math.isfinite(loss) else math.inf for _, loss in other.curve) for other in others]
    return len(averages) < min_results or not min(curve) > statistics.median(averages)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num_slots=st.integers(1, 5), min_results=st.integers(1, 5), left=st.sets(st.integers(0, 19), max_size=3))
def test_a_trial_goes_on_unless_its_best_is_worse_than_the_median_of_the_others(seed: int, num_slots: int, min_results: int, left: set[int]) -> None:
    scheduler = Median(LEVELS, min_results=min_results)
    for question in play(scheduler, drawn_losses(seed, width=1), seed=seed, num_trials=20, num_slots=num_slots, left=sorted(left)):
        reached = [(index, fact) for index, fact in enumerate(question.facts) if isinstance(fact, Reached) and fact.rung < len(LEVELS) - 1]
        going = {
            (-fact.rung, fact.number)
            for index, fact in reached
            if math.isfinite(fact.losses[0])
            and fact.number not in gone_from(question.facts, fact.rung)
            and _passes(question.facts, index, min_results)
        }
        if going:
            rung, number = min(going)
            assert question.decision == GoOn(number=number, rung=1 - rung)
        else:
            assert not isinstance(question.decision, GoOn)


def _told(*curves: Sequence[float]) -> Median:
    """Trials that came to epoch 2, one after another."""
    scheduler = Median((2, 4, 9), min_results=2)
    for number, curve in enumerate(curves):
        scheduler.saw(Asked(number=number, rung=0))
        scheduler.saw(Reached(number=number, rung=0, losses=(curve[-1],), curve=tuple(enumerate(curve, 1))))
    return scheduler


def test_too_few_others_stop_nobody() -> None:
    assert _told([0.0], [9.0]).waiting() == [(0, 0), (1, 0)]
    assert _told([9.0]).next(can_ask=False) == GoOn(number=0, rung=1)


def _going(scheduler: Median) -> list[int]:
    """Who is sent on, one after another."""
    found = []
    while isinstance(decision := scheduler.next(can_ask=False), GoOn):
        found.append(decision.number)
        scheduler.saw(Started(number=decision.number, rung=2))
    return found


def test_the_best_of_a_trial_counts_and_the_average_of_the_others() -> None:
    assert _going(_told([4.0, 0.0], [4.0, 0.0], [2.0, 5.0], [2.5, 2.5])) == [0, 1, 2]


def test_a_verdict_stands_when_later_trials_are_worse() -> None:
    scheduler = _told([0.0], [0.0], [1.0], [9.0], [9.0], [9.0], [9.0])
    assert scheduler.waiting() == [(number, 0) for number in range(7)]
    assert 2 not in _going(scheduler)


def test_without_a_curve_the_result_stands_for_it() -> None:
    scheduler = _told([1.0], [1.0])
    for number, loss in ((2, 2.0), (3, 1.0)):
        scheduler.saw(Asked(number=number, rung=0))
        scheduler.saw(Reached(number=number, rung=0, losses=(loss,)))
    assert _going(scheduler) == [0, 1, 3]


def test_what_an_adopted_trial_did_after_a_rung_does_not_count_there() -> None:
    scheduler = _told([1.0], [1.0])
    scheduler.saw(Asked(number=2, rung=0))
    scheduler.saw(Reached(number=2, rung=0, losses=(2.0,), curve=((1, 2.0), (2, 2.0), (3, 0.0))))
    assert _going(scheduler) == [0, 1]


def test_who_is_higher_up_goes_on_first() -> None:
    scheduler = _told([1.0], [1.0])
    scheduler.saw(Started(number=1, rung=1))
    scheduler.saw(Reached(number=1, rung=1, losses=(1.0,)))
    assert _going(scheduler) == [1, 0]


def test_a_result_that_is_measured_again_is_not_judged_again_and_counts_once() -> None:
    scheduler = _told([0.0], [1.0], [2.0])
    for number, loss in ((2, 0.0), (0, 9.0), (0, 9.0)):
        scheduler.saw(Reached(number=number, rung=0, losses=(loss,), curve=((1, loss),)))
    scheduler.saw(Asked(number=3, rung=0))
    scheduler.saw(Reached(number=3, rung=0, losses=(1.5,), curve=((1, 1.5),)))
    assert _going(scheduler) == [0, 1]
