"""What a sampler remembers saves time and changes nothing: after any history it answers as one that has just seen the records."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry_ray.search.samplers import Kind, kinds, sources
from foundry_ray.search.samplers.observing import Observer
from foundry_ray.search.samplers.window import Window
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import Objective, SearchSpace, TrialState
from tests.unit.search import _sampling as small

Change = Callable[["History", int], None]


class History:
    """A study to which things happen; `what` chooses among trials and values."""

    def __init__(self, space: SearchSpace, kind: Kind = "random") -> None:
        self.records: dict[int, TrialRecord] = {}
        self.sampler = small.sampler(kind, space)

    def ask(self, what: int) -> None:
        number = len(self.records)
        proposal = self.sampler.propose(self.records, number)
        self.records[number] = small.record(number, proposal.params, state=TrialState.RUNNING, attrs=proposal.attrs)

    def climb(self, what: int) -> None:
        one = self._one(what)
        rung = len(one.by_rung)
        if rung < 3 and one.duplicate_of is None:
            values = {name: round(value * (1 + what % 7 / 10), 2) for name, value in small.worth(one.trial.params).items()}
            self._put(replace(one, by_rung={**one.by_rung, rung: values}), TrialState.WAITING)

    def go_on(self, what: int) -> None:
        self._put(self._one(what), TrialState.RUNNING)

    def fail(self, what: int) -> None:
        self._put(self._one(what), TrialState.FAILED)

    def break_limit(self, what: int) -> None:
        self._put(replace(self._one(what), excess=what % 5 / 4), TrialState.INFEASIBLE)

    def repeat(self, what: int) -> None:
        one, other = self._one(what), self._one(what // 3)
        if other.trial.number < one.trial.number and other.duplicate_of is None and not one.by_rung:
            self._put(replace(one, duplicate_of=other.trial.number), TrialState.STOPPED)

    def measure(self, what: int) -> None:
        for one in list(self.records.values())[:: 1 + what % 3]:
            by_rung = {rung: {**values, "size_bytes": values["size_bytes"] + what % 4} for rung, values in one.by_rung.items()}
            self._put(replace(one, by_rung=by_rung), one.trial.state)

    def exploit(self, what: int) -> None:
        one, donor = self._one(what), self._one(what // 3)
        params = {**one.trial.params, "ratio": 0.05 * (what % 13)}
        self._put(replace(one, by_rung=donor.by_rung, own_from=len(donor.by_rung), trial=replace(one.trial, params=params)), TrialState.RUNNING)

    def _one(self, what: int) -> TrialRecord:
        return self.records[what % len(self.records)]

    def _put(self, record: TrialRecord, state: TrialState) -> None:
        self.records[record.trial.number] = replace(record, trial=replace(record.trial, state=state))


CHANGES: tuple[Change, ...] = (
    History.climb,
    History.climb,
    History.climb,
    History.go_on,
    History.fail,
    History.break_limit,
    History.repeat,
    History.measure,
    History.exploit,
)
STEPS = st.lists(st.tuples(st.sampled_from((History.ask, *CHANGES)), st.integers(0, 999)), min_size=20, max_size=60)
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(STEPS, st.sampled_from([small.OBJECTIVES[:1], small.OBJECTIVES[:2]]))
def test_what_is_observed_and_chosen_depends_on_the_records_alone(steps: list[tuple[Change, int]], objectives: tuple[Objective, ...]) -> None:
    history = History(small.CONDITIONAL)
    history.ask(0)
    observer, window, seen = Observer(objectives, enough=3), Window(6, len(objectives)), dict[int, TrialRecord]()
    for step, what in steps:
        step(history, what)
        changed = [number for number, record in history.records.items() if seen.get(number) is not record]
        seen = dict(history.records)
        window.update(observer.found, observer.update(history.records, changed))
        fresh_observer, fresh_window = Observer(objectives, enough=3), Window(6, len(objectives))
        fresh_window.update(fresh_observer.found, fresh_observer.update(history.records, list(history.records)))
        assert observer.found == fresh_observer.found
        assert window.chosen() == fresh_window.chosen()


def _compare(kind: Kind, space: SearchSpace, steps: list[tuple[Change, int]]) -> None:
    history = History(space, kind)
    for step, what in [(History.ask, 0), *steps]:
        step(history, what)
    number = len(history.records)
    assert history.sampler.propose(history.records, number) == small.sampler(kind, space).propose(history.records, number)


@QUICK
@given(STEPS)
def test_tpe_remembers_nothing_that_matters(monkeypatch: pytest.MonkeyPatch, steps: list[tuple[Change, int]]) -> None:
    monkeypatch.setattr(sources, "MAX_OBSERVATIONS", {"tpe": 12})
    monkeypatch.setattr(kinds, "MIN_RESULTS", 4)
    _compare("tpe", small.CONDITIONAL, steps)


@QUICK
@given(STEPS)
def test_nsga2_remembers_nothing_that_matters(monkeypatch: pytest.MonkeyPatch, steps: list[tuple[Change, int]]) -> None:
    monkeypatch.setattr(kinds, "POPULATION", 3)
    _compare("nsga2", small.CONDITIONAL, steps)


def test_a_generation_with_one_parent_left_is_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three took over other weights, and have no results yet."""
    monkeypatch.setattr(kinds, "POPULATION", 3)
    asked: list[tuple[Change, int]] = [(History.ask, 0)] * 2
    climbed: list[tuple[Change, int]] = [(History.climb, number) for number in range(3)]
    _compare(
        "nsga2",
        small.CONDITIONAL,
        [*asked, *climbed, (History.ask, 0), (History.climb, 3), (History.go_on, 0), (History.exploit, 0), (History.exploit, 1)],
    )


@QUICK
@given(STEPS)
def test_cmaes_remembers_nothing_that_matters(steps: list[tuple[Change, int]]) -> None:
    _compare("cmaes", SearchSpace(params=(small.ALPHA, small.RATIO, small.WIDTH), objectives=(small.ACCURACY,)), steps)


@pytest.mark.parametrize("kind", ["tpe", "nsga2", "cmaes", "qmc"])
def test_a_long_study_that_is_resumed_goes_on_as_it_would_have(kind: Kind) -> None:
    space = small.NUMBERS if kind == "cmaes" else small.PLAIN
    unbroken, records, dice = small.sampler(kind, space), dict[int, TrialRecord](), random.Random(4)
    for number in range(120):
        proposal = unbroken.propose(records, number)
        records[number] = small.record(number, proposal.params, state=TrialState.RUNNING, attrs=proposal.attrs)
        for running in [one for one in records.values() if one.trial.state is TrialState.RUNNING and dice.random() < 0.4]:
            params = running.trial.params
            records[running.trial.number] = small.record(running.trial.number, params, small.worth(params), attrs=running.attrs)
        if number % 10 == 9:
            assert small.sampler(kind, space).propose(records, number + 1) == unbroken.propose(records, number + 1)
