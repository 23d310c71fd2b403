from __future__ import annotations

import pytest

from foundry_ray.errors import NoFeasibleTrial, SearchError
from foundry_ray.search import constraints
from foundry_ray.search.outcome import Progress, conclude
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.search import SyntheticRunner, SyntheticStudy
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import StudyResult, TrialState, from_json, to_json


def _conclude(study: SyntheticStudy, reporter: RecordingReporter, limits: tuple[str, ...] = ()) -> StudyResult:
    return conclude(study.state, study.rules, study_key="0123456789", constraint_texts=limits, reporter=reporter)


def test_the_chosen_trial_is_complete_and_nothing_waits(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore())
    study.run()
    result = _conclude(study, reporter)
    assert result.chosen_trial.state is TrialState.COMPLETE
    assert set(result.num_by_state) == {"stopped", "complete"}
    assert result.worker_seconds == sum(trial.resource_used for trial in result.trials)
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
    study = SyntheticStudy(MemoryStore(), num_trials=4, runner=SyntheticRunner(max_params=100))
    study.run()
    with pytest.raises(NoFeasibleTrial, match="none of 4 trials keeps all constraints") as caught:
        _conclude(study, reporter, ("num_params <= 100",))
    smallest = min(trial.values["num_params"] for trial in study.state.trials())
    assert f"num_params is {smallest:g}, wanted <= 100" in str(caught.value.closest)  # type: ignore[attr-defined]
    assert caught.value.exit_code == 3


def test_a_constraint_on_accuracy_is_judged_at_the_end(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=4)
    study.run()
    with pytest.raises(NoFeasibleTrial, match="accuracy"):
        _conclude(study, reporter, ("accuracy >= 0.999",))


def test_when_all_trials_fail_the_first_error_is_told(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=1, max_failures=0)
    study.coordinator.next_job()
    study.coordinator.died(0, "signal 11")
    with pytest.raises(SearchError, match="all 1 trials failed, the first with: signal 11"):
        _conclude(study, reporter)


def test_progress_counts_states_and_shows_the_best(reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=4)
    progress = Progress(study.state, 4, reporter)
    study.coordinator._on_change = progress
    study.run()
    done, total, note = reporter.progresses[-1]
    assert (done, total) == (4, 4)
    assert "3 complete" in note
    assert "best accuracy 0.9" in note
    assert len(reporter.reports) == sum(len(record.by_rung) for record in study.state.records.values())


def test_constraints_know_their_excess() -> None:
    limit = constraints.parse("latency_p95_ms <= 5", where="here")
    assert limit.excess(5.0) == 0
    assert limit.excess(6.0) == pytest.approx(0.2)
    assert constraints.excesses([limit], {"num_params": 3.0}) == {}
    assert constraints.explain([limit], {"latency_p95_ms": 6.0}) == "latency_p95_ms is 6, wanted <= 5"
