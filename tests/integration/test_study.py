"""Studies on a real Ray: actors that are shared, killed and replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from foundry_ray import compression, models
from foundry_ray.artifacts import manifests, open_store
from foundry_ray.clock import SystemClock
from foundry_ray.config import BudgetConfig, DataConfig, ModelConfig, SchedulerConfig, SearchConfig, Settings, SplitConfig, StudentConfig
from foundry_ray.data.preparing import prepare_raw
from foundry_ray.protocols import RawData
from foundry_ray.search.study import StudyContext, finish_trial, run_study
from foundry_ray.search.tune_adapter import Slots, TuneExecutor, plan_slots
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.search import SyntheticEnvironment, SyntheticRunner, SyntheticStudy
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import CompressionRecipe, ImageSchema, ModelArtifact, TrialState

if TYPE_CHECKING:
    from foundry_ray.runtime.session import Session

SLOTS = Slots(count=2, cpus=1.0, gpus=0.0)


def _execute(study: SyntheticStudy, environment: SyntheticEnvironment, scratch: Path, reporter: RecordingReporter) -> None:
    TuneExecutor(environment, slots=SLOTS, scratch=scratch, reporter=reporter).run(study.coordinator)
    study.coordinator.close()


@pytest.mark.usefixtures("ray_session")
def test_two_actors_run_every_trial_once(tmp_path: Path, reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=12)
    _execute(study, SyntheticEnvironment(), tmp_path / "scratch", reporter)
    trials = study.state.trials()
    assert [trial.number for trial in trials] == list(range(12))
    assert all(len(trial.curve) == trial.resource_used for trial in trials)
    assert sum(trial.state is TrialState.COMPLETE for trial in trials) >= 3
    assert not study.coordinator.has_work()
    assert not (tmp_path / "scratch").exists()
    assert not reporter.warnings


@pytest.mark.usefixtures("ray_session")
def test_a_killed_actor_costs_one_retry_and_no_trial(tmp_path: Path, reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=6)
    _execute(study, SyntheticEnvironment(victim=2, mark=tmp_path / "mark", event_s=0.02), tmp_path / "scratch", reporter)
    trials = study.state.trials()
    assert [trial.num_failures for trial in trials] == [0, 0, 1, 0, 0, 0]
    assert all(len(trial.curve) == trial.resource_used >= 1 for trial in trials)
    assert "trial 2 lost its process" in reporter.warnings[0]
    assert len(reporter.warnings) == 1


@pytest.mark.usefixtures("ray_session")
def test_an_error_of_the_driver_comes_out_as_it_is(tmp_path: Path, reporter: RecordingReporter) -> None:
    from foundry_ray.errors import Conflict

    store = MemoryStore()
    study = SyntheticStudy(store, num_trials=6)
    SyntheticStudy(store, num_trials=6, driver="driver-2", runner=SyntheticRunner())
    with pytest.raises(Conflict, match="another process took over this study"):
        TuneExecutor(SyntheticEnvironment(), slots=SLOTS, scratch=tmp_path / "scratch", reporter=reporter).run(study.coordinator)


def test_slots_fill_the_cluster() -> None:
    assert plan_slots({"CPU": 2.0}) == Slots(count=2, cpus=1.0, gpus=0.0)
    assert plan_slots({"CPU": 16.0, "GPU": 4.0}) == Slots(count=16, cpus=1.0, gpus=0.25)
    assert plan_slots({"CPU": 64.0, "GPU": 1.0}) == Slots(count=8, cpus=1.0, gpus=0.125)


class _ConnectedSession:
    """The part of a session that a study uses, over the fixture's cluster."""

    def __init__(self, ray: object) -> None:
        self._ray = ray

    def resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def call(self, fn: object, *args: object, num_cpus: float, num_gpus: float, **kwargs: object) -> object:
        return fn(*args, **kwargs)  # type: ignore[operator]


@pytest.fixture
def study_context(tmp_path: Path, settings: Settings, reporter: RecordingReporter) -> StudyContext:
    store = open_store(f"file://{tmp_path / 'store'}", settings=settings)
    random = np.random.default_rng(0)
    labels_N = (np.arange(240) % 2).astype(np.int64)
    images_NCHW = (random.integers(0, 120, (240, 1, 12, 12)) + 130 * labels_N[:, None, None, None]).astype(np.uint8)
    schema = ImageSchema(channels=1, height=12, width=12, dtype="uint8", classes=("dark", "light"))
    raw = RawData(inputs_N=images_NCHW, labels_N=labels_N, schema=schema, sha256="0" * 64)
    config = DataConfig(source="squares", split=SplitConfig(train=160, val=40, test=40))
    dataset = prepare_raw(raw, config, task="image_classification", seed=0, store=store, reporter=reporter)
    model = models.build(ModelConfig(width=16, depth=2), schema, dataset.preprocessing, seed=0)
    files = {
        "model.safetensors": models.tensors_to_bytes(model.state_dict()),
        "architecture.json": json.dumps(models.describe(model)).encode(),
        "model.onnx": compression.to_onnx(model, schema),
    }
    artifact = manifests.publish(store, kind="model", files=files, created_at="2026-01-01T00:00:00Z")
    counted = compression.cost(model, schema)
    teacher = ModelArtifact(
        artifact=artifact,
        family="resnet",
        num_params=counted.num_params,
        num_macs=counted.num_macs,
        size_bytes=1,
        recipe=CompressionRecipe(),
        val_metrics={"accuracy": 0.5},
    )
    space = tmp_path / "space.yaml"
    space.write_text(
        "params: {lr: {float: [0.001, 0.01], log: true}, width: {int: [6, 12]}, depth: {int: [1, 1]}, weight_bits: {choice: [8, 32]},"
        " distil_alpha: {float: [0.1, 0.5]}}"
    )
    return StudyContext(
        search=SearchConfig(space=str(space), scheduler=SchedulerConfig(rungs=(1, 2)), budget=BudgetConfig(trials=4)),
        student=StudentConfig(epochs=3, batch_size=32, target_views=2, calibration_rows=32),
        task="image_classification",
        augment=("shift",),
        seed=0,
        dataset=dataset,
        teacher=teacher,
        store=store,
        settings=settings,
    )


def test_a_study_trains_real_students_once_and_the_chosen_one_is_finished(
    study_context: StudyContext, ray_session: object, reporter: RecordingReporter
) -> None:
    session: Session = _ConnectedSession(ray_session)  # type: ignore[assignment]
    result = run_study(study_context, study_key="k" * 64, clock=SystemClock(), reporter=reporter, session=session)
    assert len(result.trials) == 4
    assert result.chosen_trial.state is TrialState.COMPLETE
    assert result.chosen_trial.values["latency_p50_ms"] > 0
    again = run_study(study_context, study_key="k" * 64, clock=SystemClock(), reporter=reporter, session=session)
    assert again == result
    student = finish_trial(study_context, result.chosen_trial, stage_key="s" * 64, clock=SystemClock(), reporter=reporter)
    assert [point["epoch"] for point in student.curve] == [1, 2, 3]
