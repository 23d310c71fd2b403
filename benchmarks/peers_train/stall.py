"""One rank that trains and saves a checkpoint now and then, and writes down how long that held it.

    RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m benchmarks.peers_train.stall JOB.json

The loop, the engine, the control and the writer are the product's. What counts as held is all that happens between two steps on the way to a
checkpoint: looking at the state, agreeing, copying. The steps themselves are timed too, apart while an upload runs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed

from benchmarks.peers_train.job import leave, rank, world_size
from foundry_ray import models, tasks
from foundry_ray.artifacts import open_store
from foundry_ray.clock import SystemClock
from foundry_ray.config import CheckpointConfig, DeepSpeedConfig, ModelConfig, Settings, TeacherConfig, TrainConfig
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.checkpoint import CheckpointWriter, committed, keep
from foundry_ray.training.control import CheckpointControl
from foundry_ray.training.deepspeed import DeepSpeedEngine
from foundry_ray.training.loop import FitJob, Loop, TensorSplit
from foundry_ray.training.preemption import Ask
from foundry_ray.training.shape import shape_of
from foundry_ray.types import ImageSchema, Preprocessing

_NUM_ROWS, _BATCH_SIZE, _NUM_KEPT = 20_000, 16, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StallJob:
    """Train on what `store` names, saving each `every_s` seconds, until `num_saves` are committed; `home` is the store's settings' home."""

    store: str
    home: str
    width: int
    every_s: float
    num_saves: int
    out: str

    def write(self, path: Path) -> None:
        """As JSON, for the ranks."""
        path.write_text(json.dumps(asdict(self)))


@dataclass(slots=True)
class _Seen:
    """What this rank saw: seconds that checkpoints held it, and of steps with and without an upload beside them."""

    held_s: list[float] = field(default_factory=list)
    busy_s: list[float] = field(default_factory=list)
    idle_s: list[float] = field(default_factory=list)


class _Enough(Exception):
    """All ranks leave at the same step."""


class _Timed:
    """A control that times another one, and ends the training after so many checkpoints."""

    def __init__(self, inner: CheckpointControl, writer: CheckpointWriter, seen: _Seen, num_saves: int) -> None:
        self._inner, self._writer, self._seen, self._num_saves = inner, writer, seen, num_saves
        self._step_at_s: float | None = None

    def wishes(self) -> Sequence[float]:
        is_enough = len(self._seen.held_s) >= self._num_saves and not self._writer.is_busy
        return [*self._inner.wishes(), float(is_enough) if rank() == 0 else 0.0]

    def act(self, wishes: Sequence[float], loop: Loop) -> None:
        if wishes[-1]:
            raise _Enough
        blocked_s, began_s = self._writer.blocked_s, time.perf_counter()
        self._inner.act(wishes[:-1], loop)
        if self._writer.blocked_s > blocked_s:
            self._seen.held_s.append(time.perf_counter() - began_s)
            self._step_at_s = None

    def between_steps(self) -> None:
        now_s = time.perf_counter()
        if self._step_at_s is not None:
            (self._seen.busy_s if self._writer.is_busy else self._seen.idle_s).append(now_s - self._step_at_s)
        self._step_at_s = now_s


def main(job: StallJob) -> None:
    """Train and save, then write what was seen."""
    torch.distributed.init_process_group("gloo")
    config = TeacherConfig(
        model=ModelConfig(family="resnet", width=job.width, depth=2),
        train=TrainConfig(epochs=1, batch_size=_BATCH_SIZE),
        workers=world_size(),
        deepspeed=DeepSpeedConfig(zero_stage=1),
        checkpoint=CheckpointConfig(every_s=job.every_s),
    )
    clock, reporter, seen = SystemClock(), RecordingReporter(), _Seen()
    store = open_store(job.store, settings=Settings(home=Path(job.home)))
    writer = CheckpointWriter(
        store,
        "stall",
        attempt=f"attempt-{os.environ['MASTER_PORT']}",
        rank=rank(),
        world_size=world_size(),
        clock=clock,
        reporter=reporter,
        timeout_s=config.checkpoint.commit_timeout_s,
        after_commit=lambda checkpoint: keep(store, "stall", [one.step for one in committed(store, "stall")][-_NUM_KEPT:]),
    )
    control = _control(config, writer, clock)
    control.begin(0)
    timed = _Timed(control, writer, seen, job.num_saves)
    loop = Loop(_fit_job(config), _engine(config, reporter), reporter=reporter, clock=clock, between_steps=timed.between_steps, control=timed)
    try:
        loop.run_epoch()
    except _Enough:
        writer.wait()
    writer.close()
    assert not reporter.warnings, reporter.warnings
    assert len(seen.held_s) >= job.num_saves, f"{len(seen.held_s)} checkpoints, wanted {job.num_saves}"
    size = sum(info.size_bytes for info in store.list(list(committed(store, "stall"))[-1].folder))
    Path(f"{job.out}.{rank()}").write_text(json.dumps({**asdict(seen), "blocked_s": writer.blocked_s, "checkpoint_bytes": size}))


def _control(config: TeacherConfig, writer: CheckpointWriter, clock: SystemClock) -> CheckpointControl:
    return CheckpointControl(
        config.checkpoint,
        writer,
        rank=rank(),
        clock=clock,
        asked=lambda: Ask.NOTHING,
        meta={},
        metric="accuracy",
        steps_per_epoch=_NUM_ROWS // _BATCH_SIZE,
    )


def _engine(config: TeacherConfig, reporter: RecordingReporter) -> DeepSpeedEngine:
    schema = ImageSchema(channels=1, height=28, width=28, dtype="uint8", classes=tuple("0123456789"))
    model = models.build(config.model, schema, Preprocessing(mean=(73.0,), std=(90.0,)), seed=0)
    return DeepSpeedEngine(model, config, shape_of(config, world_size()), device="cpu", reporter=reporter)


def _fit_job(config: TeacherConfig) -> FitJob:
    random = np.random.default_rng(0)
    images_NCHW = torch.from_numpy(random.integers(0, 256, (_NUM_ROWS, 1, 28, 28)).astype(np.uint8))
    split = TensorSplit(inputs_N=images_NCHW, labels_N=torch.from_numpy(random.integers(0, 10, _NUM_ROWS)))
    return FitJob(train=config.train, task=tasks.get("image_classification"), split_train=split, split_val=split, augment=("flip",))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(StallJob(**json.loads(Path(sys.argv[1]).read_text())))
    leave()
