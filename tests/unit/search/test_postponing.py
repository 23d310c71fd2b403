"""Who is not begun yet: the rule against its definition, and what becomes of a study by it."""

from __future__ import annotations

import math
import random
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_ray.config import BudgetConfig, SchedulerConfig
from foundry_ray.search import history
from foundry_ray.search.events import Event
from foundry_ray.search.postponing import MOST_IN_A_ROW, NEARLY, Postponing
from foundry_ray.search.schedulers.facts import Asked, Left, Reached, Started
from foundry_ray.testing.search import SyntheticStudy, synthetic_cost, synthetic_curve
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import Trial, TrialState

INF, LAST = math.inf, 2
Point = tuple[float, float, float]


def _told(*points: Point) -> Postponing:
    postponing = Postponing(last_rung=LAST)
    for number, point in enumerate(points):
        postponing.saw(Reached(number=number, rung=LAST, losses=point))
    return postponing


def _study(*, postpone: bool = True, seed: int = 1, **changes: object) -> SyntheticStudy:
    scheduler = SchedulerConfig(kind="asha", postpone=postpone)
    return SyntheticStudy(MemoryStore(), sampler="random", num_trials=48, scheduler=scheduler, seed=seed, **changes)  # type: ignore[arg-type]


def _postponed(study: SyntheticStudy) -> list[int]:
    return [event.number for event in study.events if event.kind == "postponed"]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10_000), num_points=st.integers(0, 12))
def test_a_newcomer_waits_where_one_of_the_best_costs_no_more_and_something_less(seed: int, num_points: int) -> None:
    source = random.Random(seed)
    points = [(source.random() ** 4, *(float(source.randrange(4)) for _ in range(2))) for _ in range(num_points)]
    cost = (float(source.randrange(4)), float(source.randrange(4)))
    errors = [error for error, *_ in points]
    good = min(errors, default=0.0) + NEARLY * (max(errors, default=0.0) - min(errors, default=0.0))
    cheaper = [
        number
        for number, (error, *theirs) in enumerate(points)
        if error <= good and all(a <= b for a, b in zip(theirs, cost, strict=True)) and tuple(theirs) != cost
    ]
    found = _told(*points).better_than((INF, *cost))
    assert found in cheaper if cheaper else found is None


def test_who_costs_the_same_as_the_best_begins() -> None:
    assert _told((0.1, 2.0, 2.0)).better_than((INF, 2.0, 2.0)) is None
    assert _told((0.1, 2.0, 2.0)).better_than((INF, 2.0, 2.1)) == 0


def test_with_one_objective_or_none_known_before_training_nobody_waits() -> None:
    postponing = Postponing(last_rung=LAST)
    postponing.saw(Reached(number=0, rung=LAST, losses=(0.1,)))
    assert postponing.better_than((INF,)) is None
    assert _told((0.1, 1.0, 1.0)).better_than((INF, INF, INF)) is None


def test_a_trial_that_was_not_trained_to_the_last_rung_keeps_nobody_off_the_front() -> None:
    postponing = Postponing(last_rung=LAST)
    postponing.saw(Reached(number=0, rung=LAST - 1, losses=(0.1, 1.0, 1.0)))
    assert postponing.better_than((INF, 2.0, 2.0)) is None


def test_a_result_that_lacks_a_loss_keeps_nobody_off_the_front() -> None:
    assert _told((INF, 1.0, 1.0)).better_than((INF, 2.0, 2.0)) is None


def test_after_so_many_in_a_row_one_is_begun() -> None:
    postponing = _told((0.1, 1.0, 1.0))
    for number in range(1, MOST_IN_A_ROW + 1):
        assert postponing.better_than((INF, 2.0, 2.0)) == 0
        postponing.saw(Left(number=number, reason="postponed"))
    assert postponing.better_than((INF, 2.0, 2.0)) is None
    postponing.saw(Reached(number=9, rung=0, losses=(0.5, 2.0, 2.0)))
    assert postponing.better_than((INF, 2.0, 2.0)) == 0, "a result was heard of"


def test_who_waited_longest_is_next_and_who_is_started_or_lost_waits_no_more() -> None:
    postponing = _told((0.1, 1.0, 1.0))
    for number in (3, 1, 2):
        postponing.saw(Asked(number=number, rung=0))
        postponing.saw(Left(number=number, reason="postponed"))
    assert postponing.next() == 3
    postponing.saw(Started(number=3, rung=0))
    assert postponing.next() == 1
    postponing.saw(Left(number=1, reason="infeasible"))
    assert postponing.next() == 2


def test_a_latency_of_another_device_takes_the_place_of_the_first() -> None:
    postponing = _told((0.1, 1.0, 1.0), (0.5, 5.0, 5.0))
    assert postponing.better_than((INF, 2.0, 1.0)) == 0
    postponing.saw(Reached(number=0, rung=LAST, losses=(0.1, 3.0, 1.0)))
    assert postponing.better_than((INF, 2.0, 1.0)) is None


def test_who_is_no_candidate_any_more_keeps_nobody_off_the_front() -> None:
    postponing = _told((0.1, 1.0, 1.0), (0.5, 5.0, 5.0))
    postponing.saw(Left(number=0, reason="infeasible"))
    assert postponing.better_than((INF, 2.0, 2.0)) is None


def test_all_that_were_postponed_are_trained_in_the_end_and_say_why_they_wait() -> None:
    study = _study()
    seen: dict[int, Trial] = {}
    study.coordinator.listen(
        lambda event: seen.update({event.number: study.state.records[event.number].trial}) if event.kind == "postponed" else None
    )
    trials = study.run()
    assert len(seen) >= 5
    assert all(trial.resource_used > 0 and not trial.error for trial in trials)
    first = next(iter(seen.values()))
    assert (first.state, first.rung, first.resource_used) == (TrialState.WAITING, None, 0)
    assert "only as the best of all" in str(first.error)
    last_ask = max(index for index, event in enumerate(study.events) if event.kind == "ask")
    started = [index for index, event in enumerate(study.events) if event.kind == "start" and event.number in seen and event.rung == 0]
    assert len(started) == len(seen)
    assert min(started) > last_ask, "while new ones may begin, they wait"


def test_what_was_postponed_is_measured_once_and_known_when_it_begins() -> None:
    study = _study()
    study.run()
    assert _postponed(study)
    assert set(study.runner.num_measured.values()) == {1}


def test_a_budget_of_time_leaves_the_postponed_where_they_are() -> None:
    study = _study(budget=BudgetConfig(trials=400, wall_time_s=120.0))
    trials = study.run()
    waiting = [trial for trial in trials if trial.number in _postponed(study)]
    assert waiting
    assert all(trial.resource_used == 0 and trial.state is TrialState.WAITING for trial in waiting)


def test_it_can_be_switched_off_and_is_off_where_the_scheduler_is_another() -> None:
    for study in (_study(postpone=False), SyntheticStudy(MemoryStore(), sampler="random", num_trials=48, kind="hyperband")):
        study.run()
        assert not _postponed(study)


def test_what_another_study_suggests_is_begun_although_one_of_its_trials_is_as_good() -> None:
    study = _study()
    params = {"lr": 0.003, "width": 18}
    curve = tuple({"epoch": float(epoch), **synthetic_curve(params, epoch)} for epoch in range(1, 10))
    adopted = Event(kind="adopt", number=0, params=params, values=synthetic_cost(params), curve=curve, epoch=9, source="studies/other")
    study.coordinator._happen(adopted)
    study.coordinator._happen(Event(kind="suggest", params={"lr": 0.003, "width": 20}, source="studies/other"))
    study.run()
    [suggested] = [number for number, record in study.state.records.items() if record.source and not record.is_adopted]
    assert study.state.records[suggested].trial.params["width"] == 20
    assert suggested not in _postponed(study)
    assert any(study.state.records[number].trial.params["width"] == 20 for number in _postponed(study)), "others of its size wait"


def test_the_last_one_that_may_begin_is_not_postponed() -> None:
    studies = [_study(seed=seed) for seed in range(12)]
    for study in studies:
        study.run()
    assert sum(46 in _postponed(study) for study in studies) >= 1, "the last but one is, in some"
    assert not any(47 in _postponed(study) for study in studies)


@pytest.mark.parametrize("num_slots", [1, 3])
def test_the_same_epochs_find_more_of_the_front_with_it_than_without(num_slots: int) -> None:
    volumes = {postpone: sum(_volume_after(80, postpone=postpone, seed=seed, num_slots=num_slots) for seed in range(6)) for postpone in (True, False)}
    assert volumes[True] > 1.02 * volumes[False]


def _volume_after(num_epochs: int, *, postpone: bool, seed: int, num_slots: int) -> float:
    """Of the same 48 points, whichever of them were trained by then."""
    study = _study(postpone=postpone, seed=seed)
    study.run(num_slots=num_slots)
    reports = study.coordinator.course.ledger.reports
    volumes = history.hypervolumes(reports, study.state.records, study.rules.objectives)
    return max(volume for report, volume in zip(reports, volumes, strict=True) if report.num_epochs <= num_epochs)


def test_a_sampler_that_learns_proposes_less_of_what_was_postponed() -> None:
    share = {kind: _share_postponed(kind) for kind in ("random", "tpe")}
    assert share["tpe"] < share["random"]


def _share_postponed(kind: Literal["random", "tpe"]) -> float:
    """Of the later half of the proposals."""
    late = []
    for seed in range(4):
        study = SyntheticStudy(MemoryStore(), sampler=kind, num_trials=60, seed=seed)
        study.run()
        late += [number in _postponed(study) for number in range(30, 60)]
    return sum(late) / len(late)
