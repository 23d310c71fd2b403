"""One rank in this process, and what is made of its checkpoints, without `fit` around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from foundry_ray.artifacts.manifests import put_json
from foundry_ray.config import CheckpointConfig, ModelConfig, Settings, TeacherConfig, TrainConfig
from foundry_ray.errors import ArtifactNotFound, Diverged, Preempted
from foundry_ray.protocols import ArtifactStore
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.datasets import publish_bands
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.training import checkpoint as checkpoints
from foundry_ray.training.attempts import work_name
from foundry_ray.training.checkpoint.layout import FileInfo, Part
from foundry_ray.training.elastic import MemoryLimit, shape_within
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.preemption import Ask
from foundry_ray.training.rank import Attempt, RankJob, RankRun, curve_of, kept
from foundry_ray.training.scratch import scratch_for
from foundry_ray.training.trainer import _chosen
from foundry_ray.types import DatasetRef, Json, to_json

TRAIN = TrainConfig(epochs=3, batch_size=16, lr=5e-3, precision="fp32", ema_decay=0.8)
CONFIG = TeacherConfig(model=ModelConfig(family="cnn", width=4, depth=1), train=TRAIN, workers=1)
STEPS = 6  # of an epoch


class _Busy(FakeClock):
    """Each look at it takes a second, so that every step ends with a pulse."""

    def monotonic_s(self) -> float:
        self.advance(1.0)
        return super().monotonic_s()


class _NanEngine(TorchEngine):
    """Answers NaN from a step on."""

    def __init__(self, model: nn.Module, *, from_step: int) -> None:
        super().__init__(model, TRAIN)
        self._left = from_step

    def forward(self, inputs: Tensor) -> Tensor:
        self._left -= 1
        return super().forward(inputs) * (torch.nan if self._left < 0 else 1.0)


def rank_job(store: ArtifactStore, dataset: DatasetRef, **fields: object) -> RankJob:
    config = CONFIG.model_copy(update=fields)
    return RankJob(config=config, task="image_classification", dataset=dataset, augment=(), seed=0, stage_key="k", store=store)


def rank_run(job: RankJob, reporter: RecordingReporter, *, engine: Callable[[nn.Module], TorchEngine], asked: Callable[[], Ask]) -> RankRun:
    attempt = Attempt(name="a", shape=shape_within(job.config, 1, MemoryLimit()))
    return RankRun(job, attempt, engine, reporter=reporter, clock=_Busy(), asked=asked)


def checkpoint(step: int, epoch: int, curve: Sequence[Json]) -> checkpoints.Checkpoint:
    info = FileInfo(sha256="0" * 64, size_bytes=1)
    return checkpoints.Checkpoint(
        stage_key="k",
        step=step,
        epoch=epoch,
        world_size=1,
        attempt="a",
        created_at="",
        parts=(Part(index=info, data=info),),
        document={"curve": [*curve[:epoch]]},
        meta={"ends_epoch": step == epoch * STEPS},
    )


def test_divergence_leaves_the_last_checkpoint_intact(memory_store: MemoryStore, reporter: RecordingReporter) -> None:
    job = rank_job(memory_store, publish_bands(memory_store))
    training = rank_run(job, reporter, engine=lambda model: _NanEngine(model, from_step=8), asked=lambda: Ask.NOTHING)
    with pytest.raises(Diverged, match="the loss at step 8 is nan"):
        training.run()
    last = checkpoints.latest(memory_store, "k")
    assert last is not None
    assert (last.epoch, last.step, training.first_step) == (1, STEPS, 0)
    assert all(bool(tensor.isfinite().all()) for tensor in checkpoints.assemble(memory_store, last).values())


def test_who_is_asked_to_stop_in_the_middle_of_an_epoch_loses_no_step_and_no_bit(memory_store: MemoryStore, reporter: RecordingReporter) -> None:
    stores = {"unbroken": MemoryStore(), "broken": memory_store}
    jobs = {name: rank_job(store, publish_bands(store), checkpoint=CheckpointConfig(every_steps=1)) for name, store in stores.items()}
    looks = iter([Ask.NOTHING, Ask.NOTHING, Ask.PREEMPTED])
    plain = {"engine": lambda model: TorchEngine(model, TRAIN)}
    rank_run(jobs["unbroken"], reporter, asked=lambda: Ask.NOTHING, **plain).run()
    with pytest.raises(Preempted):
        rank_run(jobs["broken"], reporter, asked=lambda: next(looks), **plain).run()
    stopped = checkpoints.latest(memory_store, "k")
    assert stopped is not None
    assert stopped.step % STEPS > 0
    resumed = rank_run(jobs["broken"], reporter, asked=lambda: Ask.NOTHING, **plain)
    resumed.run()
    assert resumed.first_step == stopped.step
    ends = [checkpoints.latest(store, "k") for store in stores.values()]
    tensors = [checkpoints.assemble(store, end) for store, end in zip(stores.values(), ends, strict=True) if end]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert curve_of(ends[0])[-1]["loss"] == curve_of(ends[1])[-1]["loss"]


def test_only_the_newest_and_the_best_are_kept(memory_store: MemoryStore) -> None:
    job = rank_job(memory_store, publish_bands(memory_store))
    curve: list[Json] = [{"accuracy": value, "val_loss": 1.0} for value in (0.7, 0.9, 0.8, 0.8, 0.6)]
    found = [checkpoint(step, step // STEPS, curve) for step in (6, 12, 15, 18, 24, 27, 30)]
    assert kept(found, job) == {12, 27, 30}
    assert kept(found[:3], job) == {12, 15}
    assert kept([], job) == frozenset()


def test_an_epoch_whose_checkpoint_was_refused_is_not_left_out_in_silence(memory_store: MemoryStore, reporter: RecordingReporter) -> None:
    curve: list[Json] = [{"accuracy": value, "val_loss": 1.0} for value in (0.7, 0.9, 0.8)]
    for epoch in (1, 3):
        found = checkpoint(epoch * STEPS, epoch, curve)
        put_json(memory_store, f"{found.folder}manifest.json", to_json(found))
    last, best = _chosen(rank_job(memory_store, publish_bands(memory_store)), reporter)
    assert (last.epoch, best.epoch) == (3, 3)
    assert reporter.warnings == ["epoch 2 was the best, but its checkpoint could not be saved: epoch 3 is published."]


class _Elsewhere(MemoryStore):
    @property
    def uri(self) -> str:
        return "memory://elsewhere"


def test_the_scratch_of_the_same_stage_in_another_store_is_left_alone(settings: Settings) -> None:
    stores = (MemoryStore(), _Elsewhere())
    jobs = [dataclasses.replace(rank_job(store, publish_bands(store)), seed=5) for store in stores]
    mine, other = (settings.home / "ray-train" / f"train-{work_name(job)}-dead" for job in jobs)
    mine.mkdir(parents=True)
    other.mkdir()
    scratch_for(stores[0], settings.home, is_here=True).clear(f"train-{work_name(jobs[0])}-")
    assert not mine.exists()
    assert other.exists()


def test_a_training_without_any_whole_epoch_cannot_be_published(memory_store: MemoryStore, settings: Settings) -> None:
    with pytest.raises(ArtifactNotFound, match="there is no checkpoint of a whole epoch"):
        _chosen(rank_job(memory_store, publish_bands(memory_store)), RecordingReporter())
