"""Another trial of a finished study: chosen, finished, registered and served, and nothing else done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from foundry_ray import registry
from foundry_ray.artifacts.manifests import publish
from foundry_ray.config import LimitsConfig, PipelineConfig, Settings, validate
from foundry_ray.errors import ArtifactNotFound, ConfigError
from foundry_ray.observability import ConsoleReporter
from foundry_ray.pipeline import Pipeline
from foundry_ray.runlog import load_run
from foundry_ray.studies import deploy_another
from foundry_ray.testing import samples
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stored_runs import RUN_ID, stage_key_of, store_run
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import DatasetRef, Endpoint, EvaluationReport, ModelArtifact, RegistryEntry, RunRecord, RunStatus, StageStatus, Trial, to_json

CONFIG = validate(PipelineConfig, {"name": "mnist", "data": {"source": "mnist_5k"}, "serve": {"num_requests": 7}}, where="test")
Deploy = Callable[..., RunRecord]


class _World:
    """What the stages of these tests do instead of training, judging and serving."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.finished: list[Trial] = []
        self.served: list[tuple[RegistryEntry, int]] = []
        self.passed = True

    def make_student(self, pipeline: Pipeline, dataset: DatasetRef, teacher: ModelArtifact, trial: Trial, stage_key: str) -> ModelArtifact:
        self.finished.append(trial)
        ref = publish(self.store, kind="model", files={"model.onnx": b"student of trial %d" % trial.number}, created_at="")
        return replace(samples.model(), artifact=ref, parents=(teacher.artifact.key,))

    def evaluate(self, pipeline: Pipeline, dataset: DatasetRef, teacher: ModelArtifact, student: ModelArtifact) -> EvaluationReport:
        return replace(samples.report(passed=self.passed), model=student.artifact.key)

    def serve(self, pipeline: Pipeline, entry: RegistryEntry, report: EvaluationReport, dataset: DatasetRef) -> Endpoint:
        self.served.append((entry, pipeline.config.serve.port))
        return Endpoint(app_name=entry.name, url="http://127.0.0.1:8000", model_version=str(entry.version), num_replicas=1)


@pytest.fixture
def world(store: MemoryStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> _World:
    """A finished run in the store, whose study has the trials 0 (chosen) and 1 on its front; whoever prepares, trains or searches fails."""
    store_run(store, clock=clock, config=to_json(CONFIG.model_dump(mode="json")))
    world = _World(store)
    for name in ("make_student", "evaluate", "serve"):
        work = getattr(world, name)
        monkeypatch.setattr(Pipeline, name, lambda self, *args, work=work: work(self, *args))
    for name in ("prepare_data", "train_teacher", "search"):
        monkeypatch.setattr(Pipeline, name, lambda self, *args: pytest.fail("it is done"))
    return world


@pytest.fixture
def deploy(world: _World, store: MemoryStore, clock: FakeClock, settings: Settings) -> Deploy:
    def run(policy: str, name: str = "latest", **options: object) -> RunRecord:
        reporter = ConsoleReporter(quiet=True, clock=clock)
        kept: list[bool] = []
        context = SimpleNamespace(
            store=store, clock=clock, reporter=reporter, limits=LimitsConfig(), settings=settings, keep=lambda: kept.append(True)
        )
        record = deploy_another(name, policy, context=context, **options)
        assert bool(kept) == (record.status is RunStatus.DONE)
        return record

    return run


def test_another_trial_is_finished_registered_and_served(deploy: Deploy, world: _World, store: MemoryStore) -> None:
    record = deploy("most accurate")
    assert [trial.number for trial in world.finished] == [1]
    entry, _ = world.served[0]
    assert (entry.name, entry.version) == ("mnist", 2)
    assert registry.resolve(store, "mnist@champion").version == 2
    assert load_run(store, record.run_id) == record


def test_its_lineage_names_the_trial_and_the_policy(deploy: Deploy, store: MemoryStore) -> None:
    record = deploy("trial 1")
    lineage = registry.resolve(store, "mnist:2").lineage
    assert (lineage.trial.number, lineage.run_id) == (1, record.run_id)
    assert lineage.config["search"]["choose"] == "trial 1"
    assert lineage.study_key == stage_key_of("study")
    assert lineage.trial.checkpoint.startswith(f"studies/{stage_key_of('study')}/trials/000001/")


def test_data_teacher_and_study_are_taken_from_the_run_that_found_it(deploy: Deploy, store: MemoryStore) -> None:
    record, origin = deploy("trial 1"), load_run(store, RUN_ID)
    for name in ("data", "teacher"):
        taken = record.stage(name)
        assert (taken.key, taken.outputs, taken.status) == (origin.stage(name).key, origin.stage(name).outputs, StageStatus.REUSED)
        assert taken.reason == f"taken from run {RUN_ID}"
    assert record.stage("search").outputs["chosen"] == 1
    assert record.source == f"another trial of {RUN_ID}"


def test_a_second_time_nothing_is_trained_again(deploy: Deploy, world: _World) -> None:
    deploy("trial 1")
    again = deploy("most accurate", RUN_ID)
    assert len(world.finished) == 1
    assert [again.stage(name).status for name in ("student", "evaluation", "registry")] == [StageStatus.REUSED] * 3
    assert [entry.version for entry, _ in world.served] == [2, 2]


def test_where_a_gate_says_no_it_is_registered_and_neither_served_nor_champion(deploy: Deploy, world: _World, store: MemoryStore) -> None:
    world.passed = False
    assert deploy("trial 1").status is RunStatus.REJECTED
    assert world.served == []
    assert registry.resolve(store, "mnist:2").passed is False
    assert registry.resolve(store, "mnist@champion").version == 1


def test_the_run_says_how_to_serve_but_for_what_is_given(deploy: Deploy, world: _World) -> None:
    record = deploy("trial 1", serve={"port": 8123})
    assert world.served[0][1] == 8123
    assert record.config["serve"] == {**CONFIG.serve.model_dump(), "enabled": True, "port": 8123}


def test_a_trial_that_cannot_be_chosen_is_refused_before_anything_is_written(deploy: Deploy, store: MemoryStore) -> None:
    before = dict(store.objects)
    with pytest.raises(ConfigError, match=r"trial 2 cannot be chosen: it is stopped; .* one of the front: 0, 1"):
        deploy("trial 2")
    with pytest.raises(ConfigError, match="the policy is 'quickest'"):
        deploy("quickest")
    with pytest.raises(ArtifactNotFound, match="There is no run 'nobody'"):
        deploy("trial 1", "nobody")
    assert store.objects == before
