"""A study in an Optuna storage: the same trials, the same front, and no file that was there before."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as Theirs

from foundry_ray.errors import ConfigError
from foundry_ray.search import pareto
from foundry_ray.search.exporting import ExportedStudy, export_study
from foundry_ray.testing import samples
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.types import Objective, StudyResult

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def _export(study: StudyResult, target: str, reporter: RecordingReporter | None = None, **changes: object) -> ExportedStudy:
    options = {"space": samples.SPACE, "began_at": BEGAN, "run_id": "run-1", "reporter": reporter or RecordingReporter(), **changes}
    return export_study(study, target, **options)


def _open(exported: ExportedStudy) -> optuna.Study:
    is_sqlite = exported.storage.startswith("sqlite:///")
    storage = RDBStorage(exported.storage) if is_sqlite else JournalStorage(JournalFileBackend(exported.storage))
    return optuna.load_study(study_name=exported.study_name, storage=storage)


@pytest.fixture(scope="module")
def study() -> StudyResult:
    return samples.searched(40)


@pytest.fixture(scope="module", params=["sqlite:///{}/study.db", "journal:{}/study.log"])
def reopened(request: pytest.FixtureRequest, study: StudyResult, tmp_path_factory: pytest.TempPathFactory) -> optuna.Study:
    return _open(_export(study, request.param.format(tmp_path_factory.mktemp("export"))))


def test_every_trial_is_there_with_its_parameters_and_their_ranges(study: StudyResult, reopened: optuna.Study) -> None:
    assert [(trial.number, trial.params) for trial in reopened.trials] == [(trial.number, dict(trial.params)) for trial in study.trials]
    lr = reopened.trials[0].distributions["lr"]
    assert lr == optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)


def test_the_front_is_the_same(study: StudyResult, reopened: optuna.Study) -> None:
    assert {trial.number for trial in reopened.best_trials} == set(study.pareto_front)


def test_values_states_and_directions_are_as_they_were(study: StudyResult, reopened: optuna.Study) -> None:
    assert [direction.name for direction in reopened.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    trained, broken, failed, repeated = (reopened.trials[number] for number in (0, 4, 5, 7))
    assert trained.values == [study.trials[0].values[one.metric] for one in study.objectives]
    assert [one.state for one in (trained, broken, failed, repeated)] == [Theirs.COMPLETE, Theirs.PRUNED, Theirs.FAIL, Theirs.PRUNED]
    assert broken.constraints == {"num_params <= 90000": pytest.approx(102_400 / 90_000 - 1)}
    assert trained.constraints == {"num_params <= 90000": 0.0}


def test_curves_are_intermediate_values_and_the_rest_user_attributes(study: StudyResult, reopened: optuna.Study) -> None:
    first, broken, dominated = (reopened.trials[number] for number in (0, 4, 8))
    assert first.intermediate_values == {int(point["epoch"]): point["accuracy"] for point in study.trials[0].curve}
    assert first.user_attrs["metric.num_params"] == study.trials[0].values["num_params"]
    assert first.user_attrs["recipe"]["steps"][0]["kind"] == "shrink"
    assert (first.user_attrs["state"], first.user_attrs["device"]) == ("complete", "recorded")
    assert broken.user_attrs["why"] == "num_params is 102400, wanted <= 90000"
    assert dominated.user_attrs["why"] == "p50 is 1.2 ms, the teacher's 1.2 ms"
    assert first.duration.total_seconds() == study.trials[0].duration_s
    assert reopened.user_attrs["chosen"] == study.chosen


def test_a_difference_below_the_floor_makes_a_front_there_and_none_here(tmp_path: Path) -> None:
    slower, faster = samples.trial(0, 0.97, 0.16), samples.trial(1, 0.96, 0.15)
    study = replace(samples.study(), trials=(slower, faster), pareto_front=(0,), chosen=0)
    points = [pareto.losses(trial.values, study.objectives) for trial in study.trials]
    assert pareto.front(points) == [0]
    opened = _open(_export(study, f"sqlite:///{tmp_path}/study.db"))
    assert {trial.number for trial in opened.best_trials} == {0, 1}
    assert opened.user_attrs["latency_floor_ms"] == 0.1


def test_who_is_worse_than_a_threshold_is_not_on_the_front_there_either(tmp_path: Path) -> None:
    objectives = (Objective(metric="accuracy", mode="max", threshold=0.975), *samples.OBJECTIVES[1:])
    study = replace(samples.study(), objectives=objectives, pareto_front=(1,), chosen=1)
    assert {trial.number for trial in _open(_export(study, f"sqlite:///{tmp_path}/study.db")).best_trials} == {1}


def test_without_its_space_the_ranges_are_told_from_the_trials_with_a_warning(study: StudyResult, tmp_path: Path) -> None:
    reporter = RecordingReporter()
    opened = _open(_export(study, f"journal:{tmp_path}/study.log", reporter, space=None))
    assert opened.trials[0].distributions["width"] == optuna.distributions.IntDistribution(8, 32)
    assert "the ranges of parameters are told from its trials" in reporter.warnings[0]


def test_a_file_that_is_there_is_not_touched(study: StudyResult, tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"study\.db is there already"):
        _export(study, f"sqlite:///{path}")
    assert path.read_text() == "mine"


def test_an_export_that_fails_leaves_no_file(tmp_path: Path) -> None:
    class Full(RecordingReporter):
        def progress(self, done: float, total: float, note: str = "") -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(ConfigError, match=r"study\.db cannot be written: No space left on device"):
        _export(samples.study(), f"sqlite:///{tmp_path}/study.db", Full())
    assert list(tmp_path.iterdir()) == []


def test_values_between_the_steps_of_a_range_are_told_as_values(study: StudyResult, tmp_path: Path) -> None:
    params = [replace(one, step={"width": 5.0, "momentum": 0.1}.get(one.name, one.step)) for one in samples.SPACE.params]
    reporter = RecordingReporter()
    exported = _export(study, f"sqlite:///{tmp_path}/study.db", reporter, space=replace(samples.SPACE, params=tuple(params)))
    ranges = _open(exported).trials[0].distributions
    assert ranges["width"] == optuna.distributions.IntDistribution(8, 32)
    assert "told from its trials" in reporter.warnings[0]


@pytest.mark.parametrize("target", ["study.db", "mysql://host/db", "sqlite:///", "journal:", ""])
def test_another_target_is_refused_with_the_forms_there_are(study: StudyResult, target: str) -> None:
    with pytest.raises(ConfigError, match="wanted sqlite:///FILE or journal:FILE"):
        _export(study, target)


def test_a_folder_that_is_not_there_is_a_readable_error(study: StudyResult, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no is no folder"):
        _export(study, f"sqlite:///{tmp_path}/no/study.db")
