from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from foundry_ray.config import BudgetConfig
from foundry_ray.errors import NoFeasibleTrial, SearchError
from foundry_ray.search.constraints import excesses, explain, parse
from foundry_ray.search.events import Event
from foundry_ray.search.outcome import conclude
from foundry_ray.search.progress import Progress
from foundry_ray.testing.executors import SerialExecutor
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.search import SPACE, SyntheticRunner, SyntheticStudy
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import SearchSpace, StudyResult, TrialState, from_json, to_json


def _conclude(study: SyntheticStudy, reporter: RecordingReporter) -> StudyResult:
    return conclude(study.coordinator, study_key="0123456789", reporter=reporter)


def _limited(*constraints: str) -> SearchSpace:
    return replace(SPACE, constraints=constraints)


def test_the_chosen_trial_is_complete_and_nothing_waits(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore())
    study.run()
    result = _conclude(study, reporter)
    assert result.chosen_trial.state is TrialState.COMPLETE
    assert set(result.num_by_state) == {"stopped", "complete"}
    assert result.stopped_by == "trials"
    assert from_json(StudyResult, to_json(result)) == result


def test_nothing_on_the_front_is_dominated(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore())
    study.run()
    result = _conclude(study, reporter)
    smallest = min(result.trials, key=lambda trial: (trial.values["size_bytes"], -trial.values["accuracy"]))
    best = max(result.trials, key=lambda trial: trial.values["accuracy"])
    assert {smallest.number, best.number} <= set(result.pareto_front)


def test_a_fallback_is_loud(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore())
    study.run()
    object.__setattr__(study.rules, "teacher_accuracy", 0.9999)
    _conclude(study, reporter)
    assert "comes nearest" in reporter.warnings[0]


def test_no_feasible_trial_says_how_near_one_came(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=4, space=_limited("num_params <= 100"), runner=SyntheticRunner(max_params=100))
    study.run()
    with pytest.raises(NoFeasibleTrial, match="none of 4 trials keeps all constraints") as caught:
        _conclude(study, reporter)
    smallest = min(trial.values["num_params"] for trial in study.state.trials())
    assert f"num_params is {smallest:g}, wanted <= 100" in str(caught.value.closest)  # type: ignore[attr-defined]
    assert caught.value.exit_code == 3


def test_a_constraint_on_accuracy_is_judged_at_the_end(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=4, space=_limited("accuracy >= 0.999"))
    study.run()
    with pytest.raises(NoFeasibleTrial, match="accuracy"):
        _conclude(study, reporter)


def test_the_work_of_all_workers_is_counted_and_priced(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), budget=BudgetConfig(trials=8, price_per_worker_hour=3600.0))
    study.run(num_slots=2)
    result = _conclude(study, reporter)
    assert study.coordinator.at_s < result.worker_seconds <= 2 * study.coordinator.at_s
    assert result.cost == pytest.approx(result.worker_seconds)


def test_the_history_rises_to_all_that_was_found(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore())
    study.run()
    history = _conclude(study, reporter).history
    volumes = [one.hypervolume for one in history]
    assert volumes == sorted(volumes)
    assert 0 < volumes[-1] <= 1
    assert history[-1].epochs == sum(study.runner.epochs_trained.values())
    assert [one.at_s for one in history] == sorted(one.at_s for one in history)
    assert history[-1].num_trials == 16


def test_what_a_member_reached_before_it_took_over_weights_stays_in_the_history(reporter: RecordingReporter) -> None:
    alone = replace(SPACE, params=SPACE.params[:1], objectives=SPACE.objectives[:1])
    study = SyntheticStudy(MemoryStore(), kind="pbt", space=alone, num_trials=6, sampler="random")
    study.run()
    told = [event.values["accuracy"] for event in study.events if event.kind == "rung"]
    best, worst = max(told), min(told)
    expected = [(best_so_far - worst) / (best - worst) for best_so_far in itertools.accumulate(told, max)]
    assert any(event.kind == "exploit" for event in study.events)
    assert [one.hypervolume for one in _conclude(study, reporter).history] == pytest.approx(expected)


def test_a_dominated_trial_is_on_no_front(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=5)
    study.coordinator.next_job()
    values = {"num_params": 1.0, "size_bytes": 1.0, "latency_p50_ms": 0.1}
    study.coordinator.observe(Event(kind="dominated", number=0, values=values, error="smaller and not faster", excess=0.1))
    study.run()
    result = _conclude(study, reporter)
    assert result.trials[0].dominated == "smaller and not faster"
    assert 0 not in result.pareto_front
    assert result.num_by_state["infeasible"] == 1


def test_when_all_trials_fail_the_first_error_is_told(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=1, max_failures=0)
    study.coordinator.next_job()
    study.coordinator.died(0, "signal 11")
    with pytest.raises(SearchError, match="all 1 trials failed, the first with: signal 11"):
        _conclude(study, reporter)


def test_progress_counts_states_and_shows_the_best(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=4)
    study.coordinator.listen(Progress(study.coordinator, reporter=reporter, clock=study.clock))
    study.run()
    done, total, note = reporter.progresses[-1]
    assert (done, total) == (4, 4)
    assert "3 complete" in note
    assert "best accuracy 0.9" in note
    assert len(reporter.reports) == sum(len(record.by_rung) for record in study.state.records.values())


def test_a_view_shows_the_whole_study_at_most_twice_a_second() -> None:
    reporter, study = RecordingReporter(), SyntheticStudy(MemoryStore(), num_trials=6)
    study.coordinator.listen(Progress(study.coordinator, reporter=reporter, clock=study.clock))
    SerialExecutor(study.runner, clock=study.clock, num_slots=2, event_s=0.1).run(study.coordinator)
    num_told = len(reporter.progresses)
    assert num_told / 16 < len(reporter.views) < num_told / 4
    halfway = reporter.views[len(reporter.views) // 2]
    assert {trial.doing for trial in halfway.running} <= {"trains", "measures"}
    assert [best.metric for best in halfway.best] == ["accuracy", "latency_p50_ms", "size_bytes"]
    assert [(one.name, one.limit) for one in halfway.spent] == [("trials", 6), ("worker_hours", None)]
    assert reporter.views[-1].num_front > 0
    assert reporter.views[-1].hypervolume is not None


def test_a_resumed_study_shows_the_best_of_before(reporter: RecordingReporter) -> None:
    store = MemoryStore()
    SyntheticStudy(store, num_trials=4).run(budget=25)
    study = SyntheticStudy(store, num_trials=4, driver="driver-2")
    study.coordinator.listen(Progress(study.coordinator, reporter=reporter, clock=study.clock))
    study.coordinator.next_job()
    job = study.coordinator.next_job()
    study.run()
    assert "best accuracy" in reporter.progresses[0][2]
    assert job is None or job.number < 4


def test_on_another_device_the_best_latency_is_one_of_that_device(reporter: RecordingReporter) -> None:
    store = MemoryStore()
    SyntheticStudy(store, num_trials=6, runner=SyntheticRunner(device="laptop")).run()
    viewing, study = (
        RecordingReporter(),
        SyntheticStudy(store, num_trials=7, driver="driver-2", runner=SyntheticRunner(device="server", slowness=3.0)),
    )
    study.coordinator.listen(Progress(study.coordinator, reporter=viewing, clock=study.clock))
    study.coordinator.on_device("server")
    study.run()
    latencies = {trial.number: trial.values["latency_p50_ms"] for trial in study.state.trials()}
    best = viewing.views[-1].best[1]
    assert best.value == min(latencies.values()) == latencies[best.number]
    assert not viewing.warnings


def test_latencies_of_two_devices_at_once_are_warned_of_once(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=4, sampler="random")
    study.coordinator.listen(Progress(study.coordinator, reporter=reporter, clock=study.clock))
    for device in ("laptop", "server", "phone"):
        job = study.coordinator.next_job()
        assert job is not None
        study.coordinator.observe(next(SyntheticRunner(device=device)(job)))
    assert len(reporter.warnings) == 1
    assert "different devices (laptop, server), and do not compare: `search.latency.device`" in reporter.warnings[0]


def test_constraints_know_their_excess() -> None:
    limit = parse("latency_p95_ms <= 5", where="here")
    assert limit.excess(5.0) == 0
    assert limit.excess(6.0) == pytest.approx(0.2)
    assert excesses([limit], {"num_params": 3.0}) == {}
    assert explain([limit], {"latency_p95_ms": 6.0}) == "latency_p95_ms is 6, wanted <= 5"
