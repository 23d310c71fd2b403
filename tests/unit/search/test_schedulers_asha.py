from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_ray.search.schedulers.asha import Asha
from foundry_ray.search.schedulers.facts import Asked, Begin, Fact, GoOn, Left, Reached, Started
from tests.unit.search import _naive as naive
from tests.unit.search._histories import drawn_losses, gone_from, play, results_at

LEVELS = (1, 3, 9)


def _get_job(facts: Sequence[Fact], eta: float) -> GoOn | Begin:
    """Algorithm 2 of arXiv 1810.05934: from the highest rung down, the first of the top 1/eta that was not promoted; else a new one."""
    for rung in reversed(range(len(LEVELS) - 1)):
        results = results_at(facts, rung)
        candidates = naive.order(results)[: int(len(results) / eta)]
        known = [number for number in candidates if all(abs(loss) < float("inf") for loss in results[number])]
        promotable = [number for number in known if number not in gone_from(facts, rung)]
        if promotable:
            return GoOn(number=promotable[0], rung=rung + 1)
    return Begin()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    width=st.integers(1, 3),
    num_slots=st.integers(1, 6),
    eta=st.sampled_from([1.5, 2.0, 3.0, 4.0]),
    left=st.sets(st.integers(0, 29), max_size=5),
)
def test_it_decides_as_the_paper_says_from_all_facts_at_once(seed: int, width: int, num_slots: int, eta: float, left: set[int]) -> None:
    losses = drawn_losses(seed, width=width)
    scheduler = Asha(LEVELS, reduction_factor=eta)
    for question in play(scheduler, losses, seed=seed, num_trials=30, num_slots=num_slots, left=sorted(left)):
        wanted = _get_job(question.facts, eta)
        if isinstance(wanted, GoOn) or question.can_ask:
            assert question.decision == wanted
        else:
            assert not isinstance(question.decision, (GoOn, Begin))


def _told(losses: Sequence[tuple[float, ...]]) -> Asha:
    scheduler = Asha(LEVELS, reduction_factor=3.0)
    for number, one in enumerate(losses):
        scheduler.saw(Asked(number=number, rung=0))
        scheduler.saw(Reached(number=number, rung=0, losses=one))
    return scheduler


def test_nobody_goes_on_before_a_rung_holds_eta_trials() -> None:
    assert _told([(1.0,), (0.0,)]).next(can_ask=True) == Begin()
    assert _told([(1.0,), (0.0,), (2.0,)]).next(can_ask=True) == GoOn(number=1, rung=1)


def test_with_several_objectives_a_dominated_trial_does_not_go_on() -> None:
    assert _told([(1.0, 1.0), (0.5, 0.5), (0.9, 0.9)]).next(can_ask=True) == GoOn(number=1, rung=1)


def test_a_failed_trial_keeps_its_place_but_does_not_go_on() -> None:
    scheduler = _told([(float(number),) for number in range(6)])
    scheduler.saw(Left(number=0, reason="failed"))
    assert scheduler.next(can_ask=True) == GoOn(number=1, rung=1)
    scheduler.saw(Started(number=1, rung=1))
    assert scheduler.next(can_ask=True) == Begin()


def test_a_result_that_is_measured_again_takes_the_place_of_the_first() -> None:
    scheduler = _told([(0.0,), (1.0,), (2.0,)])
    scheduler.saw(Reached(number=0, rung=0, losses=(3.0,)))
    assert scheduler.next(can_ask=True) == GoOn(number=1, rung=1)


def test_a_trial_that_was_sent_on_regardless_is_not_sent_on_again() -> None:
    scheduler = _told([(0.0,), (1.0,), (2.0,)])
    scheduler.saw(Started(number=0, rung=1))
    assert scheduler.next(can_ask=True) == Begin()
