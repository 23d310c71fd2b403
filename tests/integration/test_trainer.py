"""`fit` on Ray Train with two DeepSpeed workers: the whole way, a killed worker, errors that come out as themselves."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from foundry_ray import models
from foundry_ray.artifacts import open_store
from foundry_ray.clock import SystemClock
from foundry_ray.config import ModelConfig, Settings, TeacherConfig, TrainConfig
from foundry_ray.errors import Diverged, ResourcesUnavailable, WorkerGroupFailed
from foundry_ray.protocols import ArtifactStore
from foundry_ray.runtime.session import Session
from foundry_ray.testing.datasets import publish_bands
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training import checkpoint as checkpoints
from foundry_ray.training.rank import curve_of
from foundry_ray.training.trainer import fit
from foundry_ray.types import DatasetRef, ModelArtifact

pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # Ray warns about its own defaults
]
CONFIG = TeacherConfig(
    model=ModelConfig(family="cnn", width=4, depth=1), train=TrainConfig(epochs=3, batch_size=32, lr=5e-3, precision="fp32"), workers=2
)


@pytest.fixture
def folder_store(tmp_path: Path, settings: Settings) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store", settings=settings)


class _Killing(RecordingReporter):
    """Kills a process of the training group with SIGKILL at each epoch that is named, once."""

    def __init__(self, *, at_epochs: set[int]) -> None:
        super().__init__()
        self._at_epochs = set(at_epochs)

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        super().report(step, metrics)
        if step in self._at_epochs:
            self._at_epochs.discard(step)
            os.kill(max(_worker_pids()), signal.SIGKILL)


def _worker_pids() -> list[int]:
    import ray
    from ray.util.state import list_actors

    actors = list_actors(address=ray.get_runtime_context().gcs_address, filters=[("state", "=", "ALIVE")], detail=True)
    return [actor.pid for actor in actors if "TrainWorker" in actor.class_name]


def run(
    store: ArtifactStore, settings: Settings, reporter: RecordingReporter, *, dataset: DatasetRef | None = None, **fields: object
) -> ModelArtifact:
    return fit(
        CONFIG.model_copy(update=fields),
        task="image_classification",
        dataset=dataset or publish_bands(store, num_train=320),
        augment=("shift",),
        seed=5,
        stage_key="k",
        store=store,
        settings=settings,
        reporter=reporter,
        session=Session(reporter=reporter, is_owner=False, started_head=False),
        export=lambda model: b"onnx of " + models.tensors_to_bytes(model.state_dict()),
        cost=lambda model: (sum(param.numel() for param in model.parameters()), 0),
        clock=SystemClock(),
    )


def _long(epochs: int) -> TrainConfig:
    return CONFIG.train.model_copy(update={"epochs": epochs})


def test_a_killed_worker_costs_at_most_an_epoch_and_changes_nothing(folder_store: ArtifactStore, settings: Settings, tmp_path: Path) -> None:
    train = _long(40)
    reporter = _Killing(at_epochs={4})
    broken = run(folder_store, settings, reporter, train=train)
    unbroken_store = open_store(f"file://{tmp_path}/other", settings=settings)
    unbroken = run(unbroken_store, settings, RecordingReporter(), train=train)
    assert [epoch for epoch, _ in reporter.reports] == list(range(1, 41))
    assert len(reporter.warnings) == 1
    assert "restarting from the last checkpoint (1 of 3)" in reporter.warnings[0]
    assert broken.artifact.key == unbroken.artifact.key
    assert broken.val_metrics["accuracy"] > 0.9
    assert list((settings.home / "ray-train").iterdir()) == []


def test_divergence_on_a_worker_comes_out_as_diverged(folder_store: ArtifactStore, settings: Settings, reporter: RecordingReporter) -> None:
    with pytest.raises(Diverged, match=r"the loss at step 0 is nan, wanted a finite number") as caught:
        run(folder_store, settings, reporter, dataset=publish_bands(folder_store, std=0.0))
    assert caught.value.facts["step"] == 0
    assert reporter.warnings == []


def test_deaths_beyond_the_budget_name_the_rank_and_keep_the_checkpoint(folder_store: ArtifactStore, settings: Settings) -> None:
    with pytest.raises(WorkerGroupFailed, match=r"rank \d failed, and all 0 restarts are used up") as caught:
        run(folder_store, settings, _Killing(at_epochs={2}), train=_long(200), max_failures=0)
    failures = caught.value.facts["failures"]
    assert isinstance(failures, dict)
    assert failures
    last = checkpoints.latest(folder_store, "k")
    assert last is not None
    assert len(curve_of(last)) == last.epoch >= 2


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
