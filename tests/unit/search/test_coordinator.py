from __future__ import annotations

import itertools
import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from foundry_ray.errors import Conflict
from foundry_ray.search.events import Event, Job
from foundry_ray.testing.executors import SerialExecutor
from foundry_ray.testing.search import JOURNAL, SPACE, SyntheticRunner
from foundry_ray.testing.search import SyntheticStudy as Study
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import Param, SearchSpace, Trial, TrialState, canonical_bytes

LR, WIDTH = SPACE.params
LR_ALONE = SearchSpace(params=(LR,), objectives=SPACE.objectives)
ONE_OBJECTIVE = replace(SPACE, objectives=SPACE.objectives[:1])
COARSE = SearchSpace(
    params=(Param(name="lr", kind="categorical", choices=(0.003,)), Param(name="width", kind="int", low=8, high=10, step=2)),
    objectives=SPACE.objectives,
)


def _events(store: MemoryStore) -> list[dict[str, object]]:
    return [event for key in sorted(store.objects) if key.startswith(JOURNAL) for event in json.loads(store.objects[key])["events"]]


class _Silent(MemoryStore):
    """Answers a write when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()
        self.answers.set()

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        assert self.answers.wait(60)
        super().put(key, source, if_absent=if_absent)


def _cut(store: MemoryStore, num_events: int) -> MemoryStore:
    """The journal as if the store had stopped taking writes after so many events."""
    cut = MemoryStore()
    kept = _events(store)[:num_events]
    cut.put(f"{JOURNAL}/00000000", canonical_bytes({"format_version": 1, "driver": "old", "segment": 0, "events": kept}))
    return cut


def test_a_study_cut_after_any_event_ends_as_the_unbroken_one() -> None:
    whole = MemoryStore()
    expected = Study(whole, runner=SyntheticRunner(max_params=30_000)).run()
    for num_events in range(1, len(_events(whole))):
        again = Study(_cut(whole, num_events), driver="driver-2", runner=SyntheticRunner(max_params=30_000))
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


def test_after_each_death_for_want_of_memory_the_passes_are_halved_once_more_also_by_the_next_driver() -> None:
    store = MemoryStore()
    first = Study(store, num_trials=2, max_failures=3)
    assert _job_of(first).num_halvings == 0
    first.coordinator.died(0, "low on memory", is_out_of_memory=True)
    assert _job_of(first).num_halvings == 1
    first.coordinator.died(0, "signal 9")
    assert _job_of(first).num_halvings == 1
    first.coordinator.died(0, "low on memory", is_out_of_memory=True)
    first.coordinator.close()
    assert _job_of(Study(store, num_trials=2, max_failures=3, driver="driver-2")).num_halvings == 2


def _job_of(study: Study) -> Job:
    job = study.coordinator.next_job()
    assert job is not None
    assert job.number == 0
    return job


def test_another_budget_of_deaths_changes_nothing_that_was_decided() -> None:
    store = MemoryStore()
    first = Study(store, num_trials=3, max_failures=1, sampler="random", kind="none")
    for _ in range(2):
        assert first.coordinator.next_job() is not None
        first.coordinator.died(0, "signal 9")
    job = first.coordinator.next_job()
    assert job is not None
    first.coordinator.died(job.number, "signal 9")
    first.run()
    for max_failures in (0, 9):
        again = Study(store, num_trials=3, max_failures=max_failures, sampler="random", kind="none", driver=f"driver-{max_failures}")
        assert again.state.trials() == first.state.trials()
        assert not again.coordinator.has_work()
        again.coordinator.close()


def test_a_study_ends_with_three_finished_trials() -> None:
    assert sum(trial.state is TrialState.COMPLETE for trial in Study(MemoryStore(), num_trials=9).run()) >= 3


def test_the_finalists_are_those_nearest_to_a_limit_on_accuracy_and_more_where_none_keeps_it() -> None:
    """One after another until one keeps it; where nobody can, that is found out at a price that is bounded."""

    def finished(limit: float) -> list[float]:
        space = replace(SPACE, constraints=(f"accuracy >= {limit}",))
        study = Study(MemoryStore(), space=space, sampler="random", seed=1, num_trials=7, policy="smallest within 60 points of the teacher")
        return [trial.values["accuracy"] for trial in study.run() if trial.state is TrialState.COMPLETE]

    indifferent, wanted, hopeless = finished(0.1), finished(0.97), finished(0.999)
    assert (len(indifferent), len(wanted), len(hopeless)) == (3, 3, 6)
    assert sum(one >= 0.97 for one in indifferent) < sum(one >= 0.97 for one in wanted)


def test_without_a_scheduler_every_trial_is_completed() -> None:
    trials = Study(MemoryStore(), num_trials=4, kind="none").run()
    assert [(trial.state, trial.resource_used) for trial in trials] == [(TrialState.COMPLETE, 9)] * 4


def test_a_trial_that_is_promoted_when_it_reports_goes_on_in_place() -> None:
    study = Study(MemoryStore(), kind="median", space=ONE_OBJECTIVE, num_trials=3)
    job = study.coordinator.next_job()
    assert job is not None
    assert (job.to_epoch, job.later) == (1, (3, 9))
    answers = {event.rung: study.coordinator.observe(event) for event in study.runner(job) if event.kind != "epoch"}
    assert answers == {0: True, 1: True, 2: False}
    assert study.state.records[0].trial.state is TrialState.COMPLETE
    assert study.coordinator.num_in_flight == 0


def test_a_trial_that_is_not_promoted_leaves_its_worker() -> None:
    study = Study(MemoryStore(), num_trials=9)
    job = study.coordinator.next_job()
    assert job is not None
    answers = [(event.kind, study.coordinator.observe(event)) for event in itertools.islice(study.runner(job), 3)]
    assert answers == [("prepared", True), ("epoch", True), ("rung", False)]
    assert study.state.records[0].trial.state is TrialState.WAITING


def test_a_member_of_a_population_takes_over_weights_and_goes_on() -> None:
    study = Study(MemoryStore(), kind="pbt", space=LR_ALONE, num_trials=6, sampler="random")
    trials = study.run()
    exploits = [event for event in study.events if event.kind == "exploit"]
    assert exploits
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    assert study.coordinator.stopped_by == "trials"
    last = study.state.records[exploits[-1].number]
    assert last.trial.params == exploits[-1].params
    assert last.trial.curve[0]["from_trial"] == exploits[-1].of


def test_what_is_waited_for_is_said() -> None:
    study = Study(MemoryStore(), num_trials=2)
    assert study.coordinator.waiting_because() == ""
    for _ in range(2):
        study.coordinator.next_job()
    assert study.coordinator.next_job() is None
    assert study.coordinator.waiting_because() == "2 trials have yet to report at a rung before another can go on"
    study.coordinator.say_waiting("a worker starts")
    assert study.coordinator.waiting_because() == "a worker starts"


def test_at_the_end_the_spent_budget_is_what_is_waited_for() -> None:
    study = Study(MemoryStore(), num_trials=2)
    study.run()
    assert study.coordinator.next_job() is None
    assert study.coordinator.waiting_because() == "search.budget.trials is used up"


def test_no_more_workers_are_wanted_than_there_is_work_for() -> None:
    study = Study(MemoryStore(), num_trials=3)
    assert study.coordinator.num_startable(16) == 3
    study.coordinator.next_job()
    assert study.coordinator.num_startable(16) == 2
    study.run()
    assert study.coordinator.num_startable(16) == 0


def test_a_job_is_held_back_while_the_store_is_silent_and_the_others_go_on() -> None:
    store = _Silent()
    study = Study(store, num_trials=3)
    first = study.coordinator.next_job()
    assert first is not None
    store.answers.clear()
    assert study.coordinator.next_job() is None
    assert "the store does not answer, and trial 1 begins when that is written down" in study.coordinator.waiting_because()
    assert study.coordinator.observe(next(study.runner(first))), "who runs goes on"
    store.answers.set()
    second = study.coordinator.next_job()
    assert second is not None
    assert second.number == 1
    assert study.coordinator.waiting_because() == ""
    assert any(event["kind"] == "ask" and event.get("number") == 1 for event in _events(store))


def test_results_are_written_with_the_next_decision() -> None:
    store = MemoryStore()
    study = Study(store, num_trials=8, sampler="random", kind="none")
    SerialExecutor(study.runner, clock=study.clock, event_s=0.01).run(study.coordinator)
    study.coordinator.close()
    segments = sorted(key for key in store.objects if key.startswith(JOURNAL))
    assert len(segments) < len(_events(store)) / 2


def test_an_event_costs_the_same_however_many_trials_there_are() -> None:
    """By the trial records that an event makes anew: they are all that a study's state is made of."""
    study = Study(MemoryStore(), num_trials=60, sampler="random")
    study.run()
    before = dict(study.state.records)
    study.state.apply(Event(kind="start", number=7, rung=1))
    assert [number for number, record in study.state.records.items() if record is not before[number]] == [7]


def test_a_metric_that_is_no_number_is_the_worst_and_breaks_no_journal() -> None:
    store = MemoryStore()
    study = Study(store, num_trials=1)
    study.coordinator.next_job()
    study.coordinator.observe(Event(kind="prepared", number=0, values={"size_bytes": 1.0}, effective="e"))
    study.coordinator.observe(Event(kind="rung", number=0, epoch=1, values={"accuracy": math.nan}, curve=({"epoch": 1.0, "loss": math.inf},)))
    study.coordinator.close()
    assert [event.get("values") for event in _events(store) if event["kind"] == "rung"] == [None]


def test_on_another_device_each_graph_is_measured_once_before_new_work() -> None:
    store = MemoryStore()
    Study(store, runner=SyntheticRunner(device="laptop"), sampler="random").run(budget=70)
    second = Study(store, driver="driver-2", runner=SyntheticRunner(device="server", slowness=2.0), sampler="random")
    stale = [record for record in second.state.records.values() if record.known and record.duplicate_of is None]
    second.coordinator.on_device("server")
    jobs = [second.coordinator.next_job() for _ in {record.graph for record in stale}]
    assert all(job is not None and job.to_epoch == job.from_epoch and not job.later for job in jobs)
    assert {second.state.records[job.number].graph for job in jobs if job is not None} == {record.graph for record in stale}
    for job in jobs:
        assert job is not None
        assert not second.coordinator.observe(next(second.runner(job)))
    trials = second.run()
    assert {trial.device for trial in trials if trial.values} == {"server"}
    assert all(trial.values["latency_p50_ms"] == pytest.approx(0.04 * float(trial.params["width"])) for trial in trials)


def test_on_the_same_device_nothing_is_measured_again() -> None:
    store = MemoryStore()
    first = Study(store, runner=SyntheticRunner(device="laptop"))
    first.run(budget=70)
    second = Study(store, driver="driver-2", runner=SyntheticRunner(device="laptop"))
    second.coordinator.on_device("laptop")
    second.run()
    assert not any(first.runner.num_measured[number] > 1 or second.runner.num_measured[number] > 1 for number in range(16))
    assert not [event for event in second.events if event.kind == "measured"]


def test_a_trial_too_slow_for_its_constraint_on_another_device_is_trained_no_further() -> None:
    store = MemoryStore()
    Study(store, runner=SyntheticRunner(device="laptop"), sampler="random").run(budget=40)
    second = Study(store, driver="driver-2", runner=SyntheticRunner(device="server", slowness=2.0, max_ms=0.5), sampler="random")
    known = {number for number, record in second.state.records.items() if record.known}
    second.coordinator.on_device("server")
    trials = second.run()
    slow = [trial for trial in trials if trial.number in known and trial.values["latency_p50_ms"] > 0.5]
    assert slow
    assert {trial.state for trial in slow} == {TrialState.INFEASIBLE}
    assert not any(second.runner.epochs_trained[trial.number] for trial in slow)
    assert "latency_p50_ms is" in str(slow[0].error)


def test_two_slots_lose_and_double_nothing() -> None:
    study = Study(MemoryStore(), num_trials=20)
    trials: list[Trial] = study.run(num_slots=2)
    assert [trial.number for trial in trials] == list(range(20))
    assert all(study.runner.epochs_trained[trial.number] == trial.resource_used for trial in trials)
    assert study.coordinator.num_in_flight == 0


def test_what_a_driver_is_told_is_what_the_journal_says() -> None:
    store = MemoryStore()
    study = Study(store)
    study.run()
    told = [event.to_json() for event in study.events if event.kind != "epoch"]
    assert told == [event for event in _events(store) if event["kind"] not in ("open", "close")]
    assert Event(kind="open").to_json() == {"kind": "open"}


def _moved(store: MemoryStore, driver: str, device: str, **keys: object) -> Study:
    slowness = {"laptop": 1.0, "server": 4.0}[device]
    return Study(store, driver=driver, sampler="random", runner=SyntheticRunner(device=device, slowness=slowness, **keys))  # type: ignore[arg-type]


def test_where_a_trial_dies_of_being_measured_another_with_its_graph_is_measured() -> None:
    store = MemoryStore()
    _moved(store, "driver-1", "laptop").run()
    second = _moved(store, "driver-2", "server")
    second.coordinator.on_device("server")
    first = second.coordinator.next_job()
    assert first is not None
    shared = [number for number in second.state.sharing_graph(first.number) if second.state.records[number].duplicate_of is None]
    assert len(shared) > 1
    for _ in range(2):
        second.coordinator.died(first.number, "signal 11")
        job = second.coordinator.next_job()
    assert second.state.records[first.number].trial.state is TrialState.FAILED
    assert job is not None
    assert job.number == shared[1]
    second.coordinator.observe(next(second.runner(job)))
    second.run()
    assert {second.state.records[number].trial.device for number in shared[1:]} == {"server"}


def test_an_interrupted_trial_waits_for_the_latency_of_its_graph() -> None:
    store = MemoryStore()
    first = Study(store, space=LR_ALONE, sampler="random", runner=SyntheticRunner(device="laptop"))
    for _ in range(3):
        job = first.coordinator.next_job()
        assert job is not None
        first.coordinator.observe(next(first.runner(job)))
    first.coordinator.close()
    second = Study(store, space=LR_ALONE, sampler="random", driver="driver-2", runner=SyntheticRunner(device="server", slowness=4.0, max_ms=0.5))
    second.coordinator.on_device("server")
    measuring = second.coordinator.next_job()
    assert measuring is not None
    assert measuring.to_epoch == measuring.from_epoch
    assert second.coordinator.next_job() is None
    assert "is measured on this device first" in second.coordinator.waiting_because()
    second.coordinator.observe(next(second.runner(measuring)))
    assert {second.state.records[number].trial.state for number in range(3)} == {TrialState.INFEASIBLE}
    assert not second.state.running


def test_who_was_too_slow_on_one_device_goes_on_where_it_is_not() -> None:
    store = MemoryStore()
    _moved(store, "driver-1", "laptop").run(budget=40)
    slow = _moved(store, "driver-2", "server", max_ms=0.3)
    slow.coordinator.on_device("server")
    slow.run(budget=10)
    out = {number for number, record in slow.state.records.items() if record.trial.state is TrialState.INFEASIBLE and record.by_rung}
    assert len(out) > 3
    back = _moved(store, "driver-3", "laptop")
    back.coordinator.on_device("laptop")
    trials = back.run()
    assert {trials[number].state for number in out} <= {TrialState.WAITING, TrialState.COMPLETE}
    assert any(back.runner.epochs_trained[number] for number in out)
    assert sum(trial.state is TrialState.COMPLETE for trial in trials) >= 3


def test_a_graph_is_measured_once_also_by_a_worker_on_a_third_device() -> None:
    store = MemoryStore()
    _moved(store, "driver-1", "laptop").run(budget=40)
    second = Study(store, driver="driver-2", sampler="random", runner=SyntheticRunner(device="phone"))
    second.coordinator.on_device("server")
    graphs = {record.graph for record in second.state.records.values() if record.known}
    measured = []
    while (job := second.coordinator.next_job()) is not None and job.to_epoch == job.from_epoch:
        measured.append(second.state.records[job.number].graph)
        second.coordinator.observe(next(second.runner(job)))
        assert len(measured) <= len(graphs)
    assert sorted(measured) == sorted(graphs)
