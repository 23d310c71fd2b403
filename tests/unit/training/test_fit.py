"""`fit` in one process: no Ray, no DeepSpeed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from foundry_ray import models
from foundry_ray.artifacts.manifests import load_manifest, read_file
from foundry_ray.config import ModelConfig, Settings, TeacherConfig, TrainConfig
from foundry_ray.errors import ConfigError, Diverged, OutOfRange
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.datasets import publish_bands
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.training import checkpoint as checkpoints
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.rank import RankJob, _commit, best_epoch, train_rank
from foundry_ray.training.scratch import scratch_for
from foundry_ray.training.trainer import _work_name, fit
from foundry_ray.types import DatasetRef, ModelArtifact

TRAIN = TrainConfig(epochs=3, batch_size=16, lr=5e-3, precision="fp32", ema_decay=0.8)
CONFIG = TeacherConfig(model=ModelConfig(family="cnn", width=4, depth=1), train=TRAIN, workers=1)


class _Interrupting(RecordingReporter):
    """Stops the process, as far as a test can, when an epoch is reported."""

    def __init__(self, *, at_epoch: int) -> None:
        super().__init__()
        self._at_epoch = at_epoch

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        super().report(step, metrics)
        if step == self._at_epoch:
            raise KeyboardInterrupt


def run(store: MemoryStore, settings: Settings, *, reporter: RecordingReporter | None = None, config: TeacherConfig = CONFIG) -> ModelArtifact:
    return fit(
        config,
        task="image_classification",
        dataset=publish_bands(store),
        augment=("shift",),
        seed=5,
        stage_key="k",
        store=store,
        settings=settings,
        reporter=reporter or RecordingReporter(),
        session=None,
        export=lambda model: b"onnx of " + models.tensors_to_bytes(model.state_dict()),
        cost=lambda model: (sum(param.numel() for param in model.parameters()), 123),
        clock=FakeClock(),
    )


def test_fit_publishes_the_best_epoch_with_its_files(memory_store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    artifact = run(memory_store, settings, reporter=reporter)
    assert [epoch for epoch, _ in reporter.reports] == [1, 2, 3]
    assert set(load_manifest(memory_store, artifact.artifact.key).files) == {"architecture.json", "model.onnx", "model.safetensors"}
    assert artifact.size_bytes == len(read_file(memory_store, artifact.artifact.key, "model.onnx"))
    assert artifact.num_macs == 123
    assert artifact.val_metrics == artifact.curve[best_epoch(artifact.curve, "accuracy") - 1]
    assert not models.load_model(memory_store, artifact).training


def test_an_interrupted_fit_goes_on_and_ends_with_the_same_bits(settings: Settings) -> None:
    unbroken, broken, second = MemoryStore(), MemoryStore(), RecordingReporter()
    expected = run(unbroken, settings)
    with pytest.raises(KeyboardInterrupt):
        run(broken, settings, reporter=_Interrupting(at_epoch=2))
    artifact = run(broken, settings, reporter=second)
    assert artifact.artifact.key == expected.artifact.key
    assert [epoch for epoch, _ in second.reports] == [3]
    assert [dict(entry) for entry in artifact.curve] == [dict(entry) for entry in expected.curve]


def test_finished_work_is_not_trained_again(memory_store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    first = run(memory_store, settings)
    again = run(memory_store, settings, reporter=reporter)
    assert again.artifact.key == first.artifact.key
    assert reporter.reports == []


def test_a_broken_checkpoint_gives_way_to_the_one_before(memory_store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(memory_store, settings, reporter=_Interrupting(at_epoch=2))
    key = next(key for key in memory_store.objects if key.endswith("000002/rank-00000/engine.pt"))
    memory_store.objects[key] = b"torn"
    run(memory_store, settings, reporter=reporter)
    assert [epoch for epoch, _ in reporter.reports] == [2, 3]
    assert "the checkpoint of epoch 2 is not whole" in reporter.warnings[0]


def test_only_the_last_two_epochs_and_the_best_are_kept(memory_store: MemoryStore) -> None:
    job = rank_job(memory_store, publish_bands(memory_store))
    curve = [{"accuracy": value, "val_loss": 1.0} for value in (0.7, 0.9, 0.8, 0.8, 0.6)]
    for epoch in range(1, 6):
        checkpoints.put_part(memory_store, "k", epoch, 0, {"model.safetensors": b"%d" % epoch})
        _commit(job, epoch, 1, curve[:epoch])
    assert [one.epoch for one in checkpoints.committed(memory_store, "k")] == [2, 4, 5]


def test_several_workers_without_a_session_are_refused(memory_store: MemoryStore, settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.workers is 2, but there is no Ray session") as caught:
        run(memory_store, settings, config=CONFIG.model_copy(update={"workers": 2}))
    assert caught.value.hint == "connect to a cluster, or set `teacher.workers: 1`."


def test_a_batch_that_cannot_be_is_refused_before_anything_starts(memory_store: MemoryStore, settings: Settings) -> None:
    config = CONFIG.model_copy(update={"train": TRAIN.model_copy(update={"batch_size": 97})})
    with pytest.raises(OutOfRange, match="batch_size is 97, but the training split has 96 rows"):
        run(memory_store, settings, config=config)
    assert [key for key in memory_store.objects if key.startswith("checkpoints/")] == []


class _NanEngine(TorchEngine):
    """Answers NaN from a step on."""

    def __init__(self, model: nn.Module, *, from_step: int) -> None:
        super().__init__(model, TRAIN)
        self._left = from_step

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self._left -= 1
        return super().forward(images_BCHW) * (torch.nan if self._left < 0 else 1.0)


def rank_job(store: MemoryStore, dataset: DatasetRef) -> RankJob:
    return RankJob(config=CONFIG, task="image_classification", dataset=dataset, augment=(), seed=0, stage_key="k", store=store)


def test_divergence_leaves_the_last_checkpoint_intact(memory_store: MemoryStore, reporter: RecordingReporter, clock: FakeClock) -> None:
    job = rank_job(memory_store, publish_bands(memory_store))
    with pytest.raises(Diverged, match="the loss at step 8 is nan"):
        train_rank(job, lambda model: _NanEngine(model, from_step=8), reporter=reporter, clock=clock, barrier=lambda: None, on_epoch=lambda *_: None)
    last = checkpoints.latest(memory_store, "k")
    assert last is not None
    assert last.epoch == 1
    weights = models.tensors_from_bytes(checkpoints.read(memory_store, last, "model.safetensors"))
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_the_manifest_waits_for_all_ranks(memory_store: MemoryStore, reporter: RecordingReporter, clock: FakeClock) -> None:
    store = FailingStore(memory_store)
    job = dataclasses.replace(rank_job(memory_store, publish_bands(memory_store)), store=store)

    def barrier() -> None:
        store.calls.append(("barrier", ""))

    train_rank(job, lambda model: TorchEngine(model, TRAIN), reporter=reporter, clock=clock, barrier=barrier, on_epoch=lambda *_: None)
    writes = [key.rpartition("/")[2] or verb for verb, key in store.calls if verb in ("put", "barrier")]
    assert sorted(writes[:3]) == ["engine.pt", "loop.pt", "model.safetensors"]
    assert writes[3:6] == ["rank-00000.json", "barrier", "manifest.json"]


def test_the_best_epoch_is_the_most_accurate_then_the_lowest_loss_then_the_earliest() -> None:
    curve = [{"accuracy": 0.9, "val_loss": 0.1}, {"accuracy": 0.95, "val_loss": 0.3}, {"accuracy": 0.95, "val_loss": 0.2}]
    assert best_epoch(curve, "accuracy") == 3
    assert best_epoch([*curve, {"accuracy": 0.95, "val_loss": 0.2}], "accuracy") == 3


class _Elsewhere(MemoryStore):
    @property
    def uri(self) -> str:
        return "memory://elsewhere"


def test_the_scratch_of_the_same_stage_in_another_store_is_left_alone(settings: Settings) -> None:
    stores = (MemoryStore(), _Elsewhere())
    jobs = [
        RankJob(config=CONFIG, task="image_classification", dataset=publish_bands(store), augment=(), seed=5, stage_key="k", store=store)
        for store in stores
    ]
    mine, other = (settings.home / "ray-train" / f"train-{_work_name(job)}-dead" for job in jobs)
    mine.mkdir(parents=True)
    other.mkdir()
    scratch_for(stores[0], settings.home, is_here=True).clear(f"train-{_work_name(jobs[0])}-")
    assert not mine.exists()
    assert other.exists()
