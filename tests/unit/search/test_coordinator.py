from __future__ import annotations

import json

import pytest

from foundry_ray.errors import Conflict
from foundry_ray.search.events import Event
from foundry_ray.testing.search import JOURNAL, SyntheticRunner
from foundry_ray.testing.search import SyntheticStudy as Study
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import Param, SearchSpace, Trial, TrialState, canonical_bytes

COARSE = SearchSpace(params=(Param(name="lr", kind="categorical", choices=(0.003,)), Param(name="width", kind="int", low=8, high=10, step=2)))


def _events(store: MemoryStore) -> list[dict[str, object]]:
    return [event for key in sorted(store.objects) for event in json.loads(store.objects[key])["events"]]


def _cut(store: MemoryStore, num_events: int) -> MemoryStore:
    """The journal as if the store had stopped taking writes after so many events."""
    cut = MemoryStore()
    kept = _events(store)[:num_events]
    cut.put(f"{JOURNAL}/00000000", canonical_bytes({"format_version": 1, "driver": "old", "segment": 0, "events": kept}))
    return cut


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_study_cut_after_any_event_ends_as_the_unbroken_one(sampler: str) -> None:
    whole = MemoryStore()
    expected = Study(whole, sampler=sampler, runner=SyntheticRunner(max_params=30_000)).run()
    for num_events in range(1, len(_events(whole)), 1 if sampler == "tpe" else 7):
        again = Study(_cut(whole, num_events), sampler=sampler, driver="driver-2", runner=SyntheticRunner(max_params=30_000))
        assert again.run() == expected, f"after {num_events} events"


def test_a_killed_study_does_not_train_again_what_reached_a_rung() -> None:
    store = MemoryStore()
    first = Study(store)
    first.run(budget=40)
    second = Study(store, driver="driver-2")
    trials = second.run()
    trained = {number: first.runner.epochs_trained.get(number, 0) + second.runner.epochs_trained.get(number, 0) for number in range(16)}
    repeated = sum(trained.values()) - sum(trial.resource_used for trial in trials)
    assert 0 <= repeated <= 6, "at most the one interrupted stretch is trained twice"


def test_a_finished_study_has_no_work() -> None:
    store = MemoryStore()
    Study(store).run()
    again = Study(store, driver="driver-2")
    assert not again.coordinator.has_work()
    assert again.coordinator.next_job() is None


def test_a_larger_budget_continues_the_same_study() -> None:
    store = MemoryStore()
    small = Study(store, num_trials=8).run()
    large = Study(store, num_trials=12, driver="driver-2").run()
    assert [trial.params for trial in large[:8]] == [trial.params for trial in small]
    assert len(large) == 12


def test_an_ask_is_durable_before_its_trial_starts() -> None:
    store = MemoryStore()
    job = Study(store).coordinator.next_job()
    assert job is not None
    assert _events(store)[-1]["kind"] == "ask"
    assert _events(store)[-1]["params"] == dict(job.params)


def test_a_second_driver_fences_the_first() -> None:
    store = MemoryStore()
    first = Study(store)
    first.coordinator.next_job()
    Study(store, driver="driver-2")
    with pytest.raises(Conflict, match="another process took over this study") as caught:
        first.coordinator.next_job()
    assert caught.value.exit_code == 5


def test_an_infeasible_trial_costs_no_training_step() -> None:
    study = Study(MemoryStore(), runner=SyntheticRunner(max_params=20_000))
    infeasible = [trial for trial in study.run() if trial.state is TrialState.INFEASIBLE]
    assert infeasible
    assert not any(trial.number in study.runner.epochs_trained for trial in infeasible)


def test_a_duplicate_is_answered_from_memory() -> None:
    study = Study(MemoryStore(), space=COARSE, sampler="random", num_trials=6)
    trials = study.run()
    originals = {trial.params["width"]: trial for trial in reversed(trials) if trial.error is None}
    duplicates = [trial for trial in trials if trial.error is not None]
    assert len(originals) == 2
    assert len(duplicates) == 4
    assert not any(trial.number in study.runner.epochs_trained for trial in duplicates)
    assert all(trial.values["size_bytes"] == originals[trial.params["width"]].values["size_bytes"] for trial in duplicates)
    assert "the same as trial" in str(duplicates[0].error)


def test_a_dead_process_is_retried_and_then_the_trial_fails() -> None:
    study = Study(MemoryStore(), num_trials=2, max_failures=1)
    for _ in range(2):
        job = study.coordinator.next_job()
        assert job is not None
        assert job.number == 0
        study.coordinator.died(0, "signal 9")
    failed, other = study.run()
    assert (failed.state, failed.num_failures, failed.error) == (TrialState.FAILED, 2, "signal 9")
    assert other.state is TrialState.COMPLETE


def test_a_study_ends_with_three_finished_trials() -> None:
    assert sum(trial.state is TrialState.COMPLETE for trial in Study(MemoryStore(), num_trials=9).run()) >= 3


def test_without_a_scheduler_every_trial_is_completed() -> None:
    trials = Study(MemoryStore(), num_trials=4, kind="none").run()
    assert [(trial.state, trial.resource_used) for trial in trials] == [(TrialState.COMPLETE, 9)] * 4


def test_two_slots_lose_and_double_nothing() -> None:
    study = Study(MemoryStore(), num_trials=20)
    trials: list[Trial] = study.run(num_slots=2)
    assert [trial.number for trial in trials] == list(range(20))
    assert all(study.runner.epochs_trained[trial.number] == trial.resource_used for trial in trials)
    assert study.coordinator.num_in_flight == 0


def test_no_trial_starts_after_the_wall_time() -> None:
    study = Study(MemoryStore(), num_trials=16)
    rules = study.rules
    object.__setattr__(rules, "budget", rules.budget.model_copy(update={"wall_time_s": 10.0}))
    assert 1 <= len(study.run()) < 16


def test_what_a_driver_is_told_is_what_the_journal_says() -> None:
    store = MemoryStore()
    study = Study(store)
    study.run()
    told = [event.to_json() for event in study.events if event.kind != "epoch"]
    assert told == [event for event in _events(store) if event["kind"] != "open"]
    assert Event(kind="open").to_json() == {"kind": "open"}
