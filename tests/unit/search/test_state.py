"""How each event changes the trials, and what the scheduler is told of it."""

from __future__ import annotations

from dataclasses import replace

from foundry_ray.search.events import Event
from foundry_ray.search.schedulers.facts import Asked, Fact, Left, Reached, Started
from foundry_ray.search.state import StudyState
from foundry_ray.search.told import facts
from foundry_ray.testing.search import OBJECTIVES
from foundry_ray.types import CompressionRecipe, TrialState

KNOWN = {"size_bytes": 10.0, "latency_p50_ms": 2.0}
ROWS = tuple({"epoch": float(epoch), "accuracy": epoch / 10} for epoch in range(1, 4))


def _state(*events: Event) -> StudyState:
    state = StudyState(recipe_of=lambda params: CompressionRecipe(), levels=(1, 3, 9))
    for event in events:
        state.apply(event)
    return state


def _begun(number: int, *, lr: float = 0.1, graph: str = "g") -> tuple[Event, Event, Event]:
    return (
        Event(kind="ask", number=number, params={"lr": lr}),
        Event(kind="prepared", number=number, values=KNOWN, effective=f"e{number}", graph=graph, device="here", duration_s=2.0),
        Event(kind="rung", number=number, rung=0, epoch=1, values={"accuracy": 0.1}, curve=ROWS[:1], checkpoint=f"c{number}-1", duration_s=3.0),
    )


def _second_rung(number: int) -> tuple[Event, Event]:
    return (
        Event(kind="start", number=number, rung=1),
        Event(kind="rung", number=number, rung=1, epoch=3, values={"accuracy": 0.3}, curve=ROWS[1:], checkpoint=f"c{number}-3"),
    )


def _told(state: StudyState, event: Event) -> list[Fact]:
    state.apply(event)
    return list(facts(event, state, OBJECTIVES))


def test_a_trial_climbs() -> None:
    state = _state(*_begun(0), *_second_rung(0))
    record = state.records[0]
    assert (record.trial.state, record.trial.rung, record.trial.resource_used, record.trial.duration_s) == (TrialState.WAITING, 1, 3, 5.0)
    assert record.by_rung[0]["accuracy"] == 0.1
    assert record.trial.values == {**KNOWN, "accuracy": 0.3}
    assert record.checkpoints == {0: "c0-1", 1: "c0-3"}
    assert [row["epoch"] for row in record.trial.curve] == [1, 2, 3]


def test_a_postponed_trial_is_known_waits_and_begins() -> None:
    ask, prepared, _ = _begun(0)
    state = _state(ask)
    postponed = replace(prepared, kind="postponed", of=7)
    assert _told(state, postponed) == [Left(number=0, reason="postponed")]
    record = state.records[0]
    assert (record.trial.state, record.trial.rung, record.known, record.graph) == (TrialState.WAITING, None, KNOWN, "g")
    assert "trial 7" in str(record.trial.error)
    assert state.owner_of("e0") == 0
    assert _told(state, Event(kind="start", number=0, rung=0)) == [Started(number=0, rung=0)]
    assert (state.records[0].trial.state, state.records[0].trial.error, state.records[0].target) == (TrialState.RUNNING, None, 0)


def test_counts_and_running_follow_the_trials() -> None:
    state = _state(
        *_begun(0), Event(kind="ask", number=1, params={}), Event(kind="failed", number=1, error="x"), Event(kind="ask", number=2, params={})
    )
    assert {one: count for one, count in state.counts.items() if count} == {TrialState.WAITING: 1, TrialState.FAILED: 1, TrialState.RUNNING: 1}
    assert state.running == {2}


def test_who_takes_over_weights_has_the_donors_past_and_its_own_parameters() -> None:
    state = _state(*_begun(0), *_second_rung(0), *_begun(1, lr=0.2))
    told = _told(state, Event(kind="exploit", number=1, of=0, from_rung=0, rung=1, params={"lr": 0.08}))
    record = state.records[1]
    assert (record.trial.params, record.trial.checkpoint, record.trial.resource_used) == ({"lr": 0.08}, "c0-1", 1)
    assert record.trial.curve == ({**ROWS[0], "from_trial": 0.0},)
    assert (record.donors, record.target, record.trial.state) == ((0,), 1, TrialState.RUNNING)
    assert told == [Started(number=1, rung=1, params={"lr": 0.08})]


def test_who_took_over_weights_stands_for_its_first_parameters_no_more() -> None:
    state = _state(*_begun(0), *_begun(1))
    assert state.owner_of("e1") == 1
    state.apply(Event(kind="exploit", number=1, of=0, from_rung=0, rung=1, params={"lr": 0.08}))
    assert state.owner_of("e1") is None


def test_a_copy_of_a_trial_that_took_over_weights_keeps_the_values_of_its_own_parameters() -> None:
    state = _state(*_begun(0), *_begun(1, lr=0.2), *_second_rung(0), Event(kind="ask", number=2, params={}), Event(kind="duplicate", number=2, of=1))
    before = state.records[2].trial.values
    state.apply(Event(kind="exploit", number=1, of=0, from_rung=1, rung=2, params={"lr": 0.08}))
    state.apply(Event(kind="rung", number=1, rung=2, epoch=9, values={"accuracy": 0.9}))
    assert state.records[2].trial.values == before == {**KNOWN, "accuracy": 0.1}


def test_what_a_donor_reached_is_not_told_as_a_result_of_who_took_over_its_weights() -> None:
    state = _state(*_begun(0), *_begun(1), Event(kind="exploit", number=1, of=0, from_rung=0, rung=1, params={"lr": 0.08}))
    told = _told(state, Event(kind="measured", number=0, values={"latency_p50_ms": 7.0}, device="there"))
    assert [(fact.number, fact.rung) for fact in told if isinstance(fact, Reached)] == [(0, 0)]


def test_a_duplicate_has_the_values_of_its_original_also_those_to_come() -> None:
    state = _state(*_begun(0), Event(kind="ask", number=1, params={"lr": 0.1}), Event(kind="duplicate", number=1, of=0))
    assert state.records[1].trial.values["accuracy"] == 0.1
    for event in _second_rung(0):
        state.apply(event)
    assert state.records[1].trial.values["accuracy"] == 0.3
    assert "the same as trial 0" in str(state.records[1].trial.error)


def test_a_dominated_trial_is_no_candidate_and_says_why() -> None:
    state = _state(Event(kind="ask", number=0, params={}))
    told = _told(state, Event(kind="dominated", number=0, values=KNOWN, effective="e", error="not faster", excess=0.1, device="here"))
    trial = state.records[0].trial
    assert (trial.state, trial.dominated, trial.values) == (TrialState.INFEASIBLE, "not faster", KNOWN)
    assert told == [Left(number=0, reason="dominated")]
    assert state.owner_of("e") is None


def test_a_latency_measured_elsewhere_counts_at_all_rungs_of_all_trials_with_this_graph() -> None:
    state = _state(*_begun(0), *_second_rung(0), *_begun(1), *_begun(2, graph="other"))
    told = _told(state, Event(kind="measured", number=0, values={"latency_p50_ms": 7.0}, device="there"))
    assert {values["latency_p50_ms"] for number in (0, 1) for values in state.records[number].by_rung.values()} == {7.0}
    assert [state.records[number].trial.device for number in range(3)] == ["there", "there", "here"]
    assert [(fact.number, fact.rung, fact.losses[1]) for fact in told if isinstance(fact, Reached)] == [(0, 0, 7.0), (0, 1, 7.0), (1, 0, 7.0)]


def test_a_trial_that_is_too_slow_elsewhere_is_no_candidate_there_and_is_one_again_here() -> None:
    state = _state(*_begun(0))
    there = Event(kind="measured", number=0, values={"latency_p50_ms": 7.0}, device="there", excess=0.4, error="latency_p50_ms is 7, wanted <= 5")
    assert _told(state, there)[-1] == Left(number=0, reason="infeasible")
    assert state.records[0].trial.state is TrialState.INFEASIBLE
    here = Event(kind="measured", number=0, values={"latency_p50_ms": 2.0}, device="here")
    state.apply(here)
    assert state.records[0].trial.state is TrialState.WAITING
    told = list(facts(here, state, OBJECTIVES, were_out={0}))
    assert told[0] == Started(number=0, rung=0), "a scheduler takes no result of who has left"
    assert [type(fact) for fact in told] == [Started, Reached]


def test_a_trial_that_was_too_slow_before_its_first_result_stays_out() -> None:
    state = _state(*_begun(0)[:2])
    for excess in (0.4, 0.0):
        state.apply(Event(kind="measured", number=0, values={"latency_p50_ms": 7.0}, device="there", excess=excess, error="too slow"))
    assert state.records[0].trial.state is TrialState.INFEASIBLE


def test_an_adopted_trial_has_reached_the_rungs_that_its_curve_reaches() -> None:
    adopt = Event(kind="adopt", number=0, params={"lr": 0.1}, epoch=3, values=KNOWN, curve=ROWS, checkpoint="k", effective="e", source="s")
    state = _state()
    told = _told(state, adopt)
    record = state.records[0]
    assert (record.trial.state, record.trial.rung, record.trial.resource_used, record.checkpoints) == (TrialState.WAITING, 1, 3, {1: "k"})
    assert record.by_rung[1] == {**KNOWN, "accuracy": 0.3}
    assert state.owner_of("e") == 0
    assert [type(fact) for fact in told] == [Asked, Reached, Started, Reached]


def test_what_is_known_to_be_infeasible_is_adopted_as_such() -> None:
    state = _state()
    told = _told(state, Event(kind="adopt", number=0, params={}, values=KNOWN, excess=0.5, error="too large", source="s"))
    assert state.records[0].trial.state is TrialState.INFEASIBLE
    assert told[-1] == Left(number=0, reason="infeasible")


def test_a_suggestion_is_used_up_by_the_trial_that_was_made_of_it() -> None:
    state = _state(Event(kind="suggest", params={"lr": 0.1}, source="s"), Event(kind="suggest", params={"lr": 0.2}, source="s"))
    state.apply(Event(kind="ask", number=0, params={"lr": 0.1}, source="s"))
    assert state.suggestions == [({"lr": 0.2}, "s")]


def test_a_death_while_only_measuring_leaves_a_trial_as_it_was_until_there_were_too_many() -> None:
    state = _state(*_begun(0))
    assert not _told(state, Event(kind="died", number=0, error="signal 9"))
    assert (state.records[0].trial.state, state.records[0].trial.num_failures) == (TrialState.WAITING, 1)
    assert _told(state, Event(kind="failed", number=0, error="signal 9")) == [Left(number=0, reason="failed")]
    assert state.records[0].trial.state is TrialState.FAILED


def test_a_curve_is_told_as_losses_of_the_first_objective() -> None:
    state = _state(*_begun(0), *_second_rung(0))
    reached = next(iter(facts(replace(_second_rung(0)[1]), state, OBJECTIVES)))
    assert isinstance(reached, Reached)
    assert reached.curve == ((1, -0.1), (2, -0.2), (3, -0.3))
    assert reached.losses == (-0.3, 2.0, 10.0)
