from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_ray.config import SchedulerConfig
from foundry_ray.search import schedulers
from foundry_ray.search.schedulers import Promotion, Rung

RUNGS = st.lists(
    st.tuples(st.dictionaries(st.integers(0, 30), st.integers(0, 5).map(lambda value: (float(value),)), max_size=15), st.sets(st.integers(0, 30))),
    min_size=1,
    max_size=3,
)


def _by_definition(rungs: list[Rung], eta: float) -> Promotion | None:
    """Algorithm 2 of arXiv 1810.05934: highest rung first, among the top 1/eta of a rung the best that was not promoted."""
    for index in range(len(rungs) - 1, -1, -1):
        top = sorted(rungs[index].points, key=lambda number: (rungs[index].points[number], number))[: int(len(rungs[index].points) // eta)]
        waiting = [number for number in top if number not in rungs[index].gone_on]
        if waiting:
            return Promotion(number=waiting[0], from_rung=index)
    return None


@settings(max_examples=200, deadline=None)
@given(RUNGS, st.sampled_from([2.0, 3.0, 4.0]))
def test_asha_promotes_as_the_paper_says(facts: list[tuple[dict[int, tuple[float, ...]], set[int]]], eta: float) -> None:
    rungs = [Rung(points=points, gone_on=gone) for points, gone in facts]
    assert schedulers.promotable(rungs, eta) == _by_definition(rungs, eta)


def test_nobody_goes_on_before_a_rung_holds_eta_trials() -> None:
    assert schedulers.promotable([Rung(points={0: (1.0,), 1: (0.0,)})], 3.0) is None


def test_with_several_objectives_a_dominated_trial_does_not_go_on() -> None:
    points = {0: (1.0, 1.0), 1: (0.5, 0.5), 2: (0.9, 0.9)}
    assert schedulers.promotable([Rung(points=points)], 3.0) == Promotion(number=1, from_rung=0)


def test_a_failed_trial_keeps_its_place_but_does_not_go_on() -> None:
    points = {number: (float(number),) for number in range(6)}
    assert schedulers.promotable([Rung(points=points, gone_on={0})], 3.0) == Promotion(number=1, from_rung=0)


def test_a_finalist_is_taken_from_the_highest_rung_in_the_policys_order() -> None:
    rungs = [Rung(points={0: (0.0,), 1: (1.0,), 2: (2.0,)}, gone_on={2}), Rung(points={2: (0.0,)})]
    assert schedulers.finalist(rungs, [1, 0, 2], num_finalists=2, wanted=3) == Promotion(number=2, from_rung=1)
    assert schedulers.finalist(rungs[:1], [1, 0, 2], num_finalists=2, wanted=3) == Promotion(number=1, from_rung=0)
    assert schedulers.finalist(rungs, [1, 0, 2], num_finalists=3, wanted=3) is None


def test_without_a_scheduler_there_is_one_rung() -> None:
    assert schedulers.resources(SchedulerConfig(kind="none", rungs=(1, 3, 9))) == (9,)
