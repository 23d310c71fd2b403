"""Studies on a real Ray: processes that are shared, killed, silent, worn and replaced."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from foundry_ray import compression, models
from foundry_ray.artifacts import manifests, open_store
from foundry_ray.clock import SystemClock
from foundry_ray.config import (
    BudgetConfig,
    DataConfig,
    LatencyConfig,
    ModelConfig,
    SchedulerConfig,
    SearchConfig,
    Settings,
    SplitConfig,
    StudentConfig,
    TrialConfig,
)
from foundry_ray.data.preparing import prepare_raw
from foundry_ray.errors import Conflict, SearchError
from foundry_ray.protocols import RawData
from foundry_ray.search.environment import StudyEnvironment
from foundry_ray.search.pool.executor import PoolExecutor
from foundry_ray.search.pool.gang import RayGang
from foundry_ray.search.pool.slots import plan_slots
from foundry_ray.search.study import StudyContext, finish_trial, run_study
from foundry_ray.testing.environments import SyntheticEnvironment
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.search import SyntheticStudy
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.testing.trials import tiny_context
from foundry_ray.training.scratch import scratch_for
from foundry_ray.types import CompressionRecipe, ImageSchema, ModelArtifact, TrialState

if TYPE_CHECKING:
    from foundry_ray.runtime.session import Session


def _execute(
    study: SyntheticStudy,
    environment: SyntheticEnvironment,
    reporter: RecordingReporter,
    *,
    nodes: Callable[[], Mapping[str, Mapping[str, float]]] = lambda: {"here": {"CPU": 2.0}},
    **trial: float,
) -> None:
    executor = PoolExecutor(environment, TrialConfig.model_validate(trial), nodes=nodes, clock=SystemClock(), reporter=reporter)
    executor.run(study.coordinator)
    study.coordinator.close()


def _assert_whole(study: SyntheticStudy, num_trials: int) -> None:
    """No trial is lost, none is doubled, and each has its curve."""
    trials = study.state.trials()
    assert [trial.number for trial in trials] == list(range(num_trials))
    assert all([row["epoch"] for row in trial.curve] == list(range(1, trial.resource_used + 1)) for trial in trials)
    assert not study.coordinator.has_work()


@pytest.mark.usefixtures("ray_session")
def test_two_processes_run_every_trial_once(tmp_path: Path, reporter: RecordingReporter) -> None:
    study, environment = SyntheticStudy(MemoryStore(), num_trials=12), SyntheticEnvironment(folder=tmp_path, event_s=0.05)
    _execute(study, environment, reporter)
    _assert_whole(study, 12)
    assert study.state.counts[TrialState.COMPLETE] >= 3
    assert environment.num_processes() == 2
    assert not reporter.warnings


@pytest.mark.usefixtures("ray_session")
def test_a_killed_process_costs_one_retry_and_no_trial(tmp_path: Path, reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=6)
    _execute(study, SyntheticEnvironment(folder=tmp_path, victim=2, event_s=0.02), reporter)
    _assert_whole(study, 6)
    assert [trial.num_failures for trial in study.state.trials()] == [0, 0, 1, 0, 0, 0]
    assert "trial 2 lost its process" in reporter.warnings[0]
    assert len(reporter.warnings) == 1


@pytest.mark.usefixtures("ray_session")
def test_a_process_that_says_nothing_is_given_up_and_its_trial_is_not(tmp_path: Path, reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=4)
    _execute(study, SyntheticEnvironment(folder=tmp_path, victim=1, fate="hangs"), reporter, silence_s=2.0)
    _assert_whole(study, 4)
    assert study.state.trials()[1].num_failures == 1
    assert "trial 1 lost its process: it said nothing for 2 s" in reporter.warnings[0]


@pytest.mark.usefixtures("ray_session")
def test_an_error_of_the_users_fails_the_trial_and_not_its_process(tmp_path: Path, reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=4)
    environment = SyntheticEnvironment(folder=tmp_path, victim=1, fate="errs")
    _execute(study, environment, reporter, nodes=lambda: {"here": {"CPU": 1.0}})
    failed = study.state.trials()[1]
    assert (failed.state, failed.error, failed.num_failures) == (TrialState.FAILED, "ValueError: the user's optimizer is broken", 0)
    assert study.state.counts[TrialState.COMPLETE] == 3
    assert environment.num_processes() == 1


@pytest.mark.usefixtures("ray_session")
def test_processes_are_replaced_after_so_many_trials(tmp_path: Path, reporter: RecordingReporter) -> None:
    study, environment = SyntheticStudy(MemoryStore(), num_trials=6, kind="none"), SyntheticEnvironment(folder=tmp_path)
    _execute(study, environment, reporter, nodes=lambda: {"here": {"CPU": 1.0}}, recycle_after=2)
    _assert_whole(study, 6)
    assert environment.num_processes() == 3
    assert not reporter.warnings


@pytest.mark.usefixtures("ray_session")
def test_a_process_that_grows_is_replaced(tmp_path: Path, reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=6, kind="none")
    environment = SyntheticEnvironment(folder=tmp_path, growth_bytes=60_000_000)
    _execute(study, environment, reporter, nodes=lambda: {"here": {"CPU": 1.0}}, max_growth_mb=100.0)
    _assert_whole(study, 6)
    assert environment.num_processes() == 2, "replaced when the third job of three had left its 60 MB beside those of the second"


@pytest.mark.usefixtures("ray_session")
def test_a_node_that_comes_is_used(tmp_path: Path, reporter: RecordingReporter) -> None:
    study, environment = SyntheticStudy(MemoryStore(), num_trials=40), SyntheticEnvironment(folder=tmp_path, event_s=0.2)
    clock = SystemClock()
    since_s = clock.monotonic_s()
    names = ("first", "late")
    _execute(study, environment, reporter, nodes=lambda: {name: {"CPU": 1.0} for name in names[: 1 if clock.monotonic_s() < since_s + 1 else 2]})
    _assert_whole(study, 40)
    assert environment.num_processes() == 2


@pytest.mark.usefixtures("ray_session")
def test_processes_that_cannot_start_end_the_study_with_their_reason(tmp_path: Path, reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=2)
    with pytest.raises(SearchError, match=r"3 worker processes in a row could not start, the last with: .*this environment is broken"):
        _execute(study, SyntheticEnvironment(folder=tmp_path, max_processes=0), reporter)


@pytest.mark.usefixtures("ray_session")
def test_processes_that_cannot_start_beside_one_that_works_are_told_and_end_no_study(tmp_path: Path, reporter: RecordingReporter) -> None:
    study = SyntheticStudy(MemoryStore(), num_trials=16)
    environment = SyntheticEnvironment(folder=tmp_path, max_processes=1, event_s=0.2)
    _execute(study, environment, reporter)
    _assert_whole(study, 16)
    assert ["could not start" in warning for warning in reporter.warnings] == [True] * 3
    assert "The study goes on with the 1 it has, and tries again in 60 s." in reporter.warnings[-1]


@pytest.mark.usefixtures("ray_session")
def test_what_trials_of_many_share_is_put_into_the_object_store_once(settings: Settings, tmp_path: Path, ray_session: object) -> None:
    import ray

    shared, slots = tiny_context(), plan_slots({"CPU": 2.0}, TrialConfig(workers=2))
    store = open_store(f"file://{tmp_path}/store", settings=settings)
    scratch = scratch_for(store, tmp_path, is_here=True)
    environment = StudyEnvironment(
        shared=shared,
        store=store,
        settings=settings,
        latency=LatencyConfig(),
        slots=slots,
        room_bytes=None,
        meter=None,
        gang=RayGang(shared, slots, store=store, settings=settings, scratch=scratch),
    )
    arrived = [ray.get(ray.put(environment)) for _ in range(2)]
    assert len({one.gang._context for one in arrived}) == 1
    assert np.array_equal(ray.get(arrived[0].gang._context).train.inputs_N, shared.train.inputs_N)


@pytest.mark.usefixtures("ray_session")
def test_an_error_of_the_driver_comes_out_as_it_is(tmp_path: Path, reporter: RecordingReporter) -> None:
    store = MemoryStore()
    study = SyntheticStudy(store, num_trials=6)
    SyntheticStudy(store, num_trials=6, driver="driver-2")
    with pytest.raises(Conflict, match="another process took over this study"):
        _execute(study, SyntheticEnvironment(folder=tmp_path), reporter)


class _ConnectedSession:
    """The part of a session that a study uses, over the fixture's cluster."""

    def __init__(self, ray: object) -> None:
        self._ray = ray

    def resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def nodes(self) -> dict[str, dict[str, float]]:
        return {"here": {"CPU": 2.0, "memory": 8e9}}

    def is_here(self) -> bool:
        return True

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


def test_a_study_of_trials_with_two_workers_trains_and_is_finished_by_one(
    study_context: StudyContext, ray_session: object, reporter: RecordingReporter
) -> None:
    session: Session = _ConnectedSession(ray_session)  # type: ignore[assignment]
    search = study_context.search.model_copy(update={"trial": TrialConfig(workers=2), "budget": BudgetConfig(trials=2)})
    context = replace(study_context, search=search)
    result = run_study(context, study_key="g" * 64, clock=SystemClock(), reporter=reporter, session=session)
    assert [trial.state for trial in result.trials if trial.resource_used == 2] != []
    assert all(len(trial.curve) == trial.resource_used for trial in result.trials)
    student = finish_trial(context, result.chosen_trial, stage_key="t" * 64, clock=SystemClock(), reporter=reporter)
    assert [point["epoch"] for point in student.curve] == [1, 2, 3]
