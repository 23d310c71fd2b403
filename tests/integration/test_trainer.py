"""`fit` on Ray Train with two DeepSpeed workers: the whole way, an interrupted driver, errors that come out as themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from foundry_ray.artifacts import open_store
from foundry_ray.artifacts.manifests import load_manifest
from foundry_ray.clock import SystemClock
from foundry_ray.config import ModelConfig, Settings, TeacherConfig, TrainConfig
from foundry_ray.errors import Diverged, ResourcesUnavailable, WorkerGroupFailed
from foundry_ray.protocols import ArtifactStore
from foundry_ray.runtime.session import Session
from foundry_ray.testing.datasets import publish_bands
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.troubled import FACTORY
from foundry_ray.training import checkpoint as checkpoints
from foundry_ray.training.trainer import fit
from foundry_ray.types import DatasetRef, ModelArtifact

pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # Ray warns about its own defaults
]
CONFIG = TeacherConfig(
    model=ModelConfig(family="cnn", width=4, depth=1), train=TrainConfig(epochs=3, batch_size=32, lr=5e-3, precision="fp32"), workers=2
)
STEPS = 10  # of an epoch


@pytest.fixture
def folder_store(tmp_path: Path, settings: Settings) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store", settings=settings)


def run(
    store: ArtifactStore, settings: Settings, reporter: RecordingReporter, *, dataset: DatasetRef | None = None, **fields: object
) -> ModelArtifact:
    return fit(
        CONFIG.model_copy(update=fields),
        task="image_classification",
        dataset=dataset or publish_bands(store, num_train=32 * STEPS),
        augment=("shift",),
        seed=5,
        stage_key="k",
        store=store,
        settings=settings,
        reporter=reporter,
        session=Session(reporter=reporter, is_owner=False, started_head=False),
        export=lambda model: b"onnx",
        cost=lambda model: (sum(param.numel() for param in model.parameters()), 0),
        clock=SystemClock(),
    )


class _Leaving(RecordingReporter):
    """A driver that is interrupted once an epoch is heard of."""

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        super().report(step, metrics)
        raise KeyboardInterrupt


def test_an_interrupted_driver_leaves_a_checkpoint_and_the_next_goes_on_from_that_step(
    folder_store: ArtifactStore, settings: Settings, reporter: RecordingReporter
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder_store, settings, _Leaving(), train=CONFIG.train.model_copy(update={"epochs": 400}))
    stopped = checkpoints.latest(folder_store, "k")
    assert stopped is not None
    assert (stopped.world_size, stopped.document["step"]) == (2, stopped.step)
    assert [info.key for info in folder_store.list("checkpoints/k/") if "stop-" in info.key] == []
    last = stopped.epoch + 10  # a busy machine is interrupted after few epochs
    artifact = run(folder_store, settings, reporter, train=CONFIG.train.model_copy(update={"epochs": last}))
    assert [epoch for epoch, _ in reporter.reports] == list(range(stopped.epoch + 1, last + 1))
    assert reporter.warnings == []
    assert artifact.val_metrics["accuracy"] > 0.9
    assert set(load_manifest(folder_store, artifact.artifact.key).files) == {"architecture.json", "model.onnx", "model.safetensors"}
    ((step, phases),) = [(step, values) for step, values in reporter.points if "start_s" in values]
    assert step == stopped.step
    parts = ("driver", "group", "imports", "model", "data", "engine", "restore", "first_step")
    assert phases["start_s"] == pytest.approx(sum(phases[f"start_{name}_s"] for name in parts))
    assert list((settings.home / "ray-train").iterdir()) == []


def test_divergence_on_a_worker_comes_out_as_diverged(folder_store: ArtifactStore, settings: Settings, reporter: RecordingReporter) -> None:
    with pytest.raises(Diverged, match=r"the loss at step 0 is nan, wanted a finite number") as caught:
        run(folder_store, settings, reporter, model=ModelConfig(family=FACTORY, params={"folder": str(settings.home), "trouble": "nan"}))
    assert caught.value.facts["step"] == 0
    assert reporter.warnings == []


def test_a_bug_of_a_rank_comes_out_at_once_with_its_own_traceback(
    folder_store: ArtifactStore, settings: Settings, reporter: RecordingReporter
) -> None:
    params = {"folder": str(settings.home), "trouble": "bug", "at_pass": 15, "rank": 1}
    with pytest.raises(WorkerGroupFailed, match="rank 1 failed with an error that a restart would only repeat: ValueError: a bug in") as caught:
        run(folder_store, settings, reporter, model=ModelConfig.model_validate({"family": FACTORY, "params": params}))
    failures = caught.value.facts["failures"]
    assert isinstance(failures, dict)
    assert 'testing/troubled.py", line' in failures[1]
    assert reporter.warnings == [], "no restart was spent on it"


def test_more_workers_than_cpus_are_refused_before_anything_starts(
    folder_store: ArtifactStore, settings: Settings, reporter: RecordingReporter
) -> None:
    with pytest.raises(ResourcesUnavailable, match=r"teacher\.workers needs 64 CPU, but the cluster has 2 CPU"):
        run(folder_store, settings, reporter, workers=64, train=CONFIG.train.model_copy(update={"batch_size": 64}))
    assert checkpoints.latest(folder_store, "k") is None


def test_what_is_free_is_told_node_by_node(reporter: RecordingReporter) -> None:
    session = Session(reporter=reporter, is_owner=False, started_head=False)
    ((node, free),) = session.free().items()
    assert list(session.nodes()) == [node]
    assert 0 <= free.get("CPU", 0.0) <= session.nodes()[node]["CPU"] == 2


def test_ray_still_makes_the_callback_that_is_left_out() -> None:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from foundry_ray.training.group import _trainer_class

    def names(kind: type[TorchTrainer]) -> list[str]:
        trainer = kind(lambda: None, scaling_config=ScalingConfig(num_workers=1))
        return [type(callback).__name__ for callback in trainer._create_default_callbacks()]

    whole = names(TorchTrainer)
    assert "DatasetsCallback" in whole
    assert names(_trainer_class()) == [name for name in whole if name != "DatasetsCallback"]
