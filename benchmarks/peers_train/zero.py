"""A language model for a few steps, as one rank of foundry's loop under a ZeRO stage, or in one process in plain fp32 torch: the reference.

    RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m benchmarks.peers_train.zero JOB.json

Both take the same weights, the same sequences in the same order and the same learning rates; the reference is written by hand and knows
neither the loop nor an engine. Shapes: N rows, B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from benchmarks.peers_train import job as jobs
from foundry_ray import models, tasks
from foundry_ray.artifacts import open_store
from foundry_ray.clock import SystemClock
from foundry_ray.config import DeepSpeedConfig, ModelConfig, Settings, TeacherConfig, TrainConfig
from foundry_ray.data.order import epoch_batches
from foundry_ray.protocols import ArtifactStore, Task
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.checkpoint import CheckpointWriter
from foundry_ray.training.deepspeed import DeepSpeedEngine
from foundry_ray.training.loop import FitJob, Loop, TensorSplit
from foundry_ray.training.shape import shape_of
from foundry_ray.types import Json, TokenSchema

_NUM_WARMUP, _LR = 3, 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroJob:
    """`zero_stage` None is the reference; `tokens` is an .npz of `inputs` (N, T) and `vocab_size`; checkpoints go into `store`, a folder."""

    family: str
    params: Mapping[str, Json]
    tokens: str
    batch_size: int
    num_steps: int
    zero_stage: int | None
    store: str
    out: str

    def write(self, path: Path) -> None:
        """As JSON, for the ranks."""
        path.write_text(json.dumps(asdict(self)))

    def split(self) -> tuple[TensorSplit, TokenSchema]:
        """The first rows: as many as the steps take."""
        saved = np.load(self.tokens)
        inputs_NT = torch.from_numpy(saved["inputs"][: self.batch_size * self.num_steps].astype(np.int64))
        assert len(inputs_NT) == self.batch_size * self.num_steps, f"{self.tokens} has {len(inputs_NT)} sequences, wanted more"
        return TensorSplit(inputs_N=inputs_NT, labels_N=inputs_NT), TokenSchema(length=inputs_NT.shape[1], vocab_size=int(saved["vocab_size"]))

    def config(self) -> TeacherConfig:
        """One epoch whose steps are the job's."""
        train = TrainConfig(
            epochs=1,
            batch_size=self.batch_size,
            lr=_LR,
            weight_decay=jobs.WEIGHT_DECAY,
            betas=jobs.BETAS,
            schedule="one_cycle",
            precision="fp32",
            grad_clip=jobs.MAX_NORM,
        )
        model = ModelConfig(family=self.family, params=dict(self.params))
        return TeacherConfig(model=model, train=train, workers=jobs.world_size(), deepspeed=DeepSpeedConfig(zero_stage=self.zero_stage or 0))


class _Watch:
    """When steps began, and what memory this process held then."""

    def __init__(self) -> None:
        self._at_s: list[float] = []
        self._mb: list[float] = []

    def mark(self) -> None:
        """A step begins."""
        self._at_s.append(time.perf_counter())
        self._mb.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)

    def seen(self) -> dict[str, float]:
        """Medians after the warm-up, and the peak so far."""
        steps = [later - earlier for earlier, later in zip(self._at_s, self._at_s[1:], strict=False)][_NUM_WARMUP:]
        return {
            "step_s": statistics.median(steps),
            "between_steps_mb": statistics.median(self._mb[_NUM_WARMUP:]),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        }


class _Noted:
    """A task that notes each loss of this rank: first those of the steps, then those of val."""

    def __init__(self, inner: Task) -> None:
        self.name, self.primary_metric = inner.name, inner.primary_metric
        self.check, self.metrics, self.correct, self.prediction = inner.check, inner.metrics, inner.correct, inner.prediction
        self.losses: list[float] = []
        self._loss = inner.loss

    def loss(self, logits_BTV: Tensor, labels_BT: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        loss = self._loss(logits_BTV, labels_BT, label_smoothing=label_smoothing)
        self.losses.append(loss.item())
        return loss


def train(job: ZeroJob) -> dict[str, object]:
    """This rank's part."""
    torch.distributed.init_process_group("gloo")
    config, reporter, watch, clock = job.config(), RecordingReporter(), _Watch(), SystemClock()
    split, schema = job.split()
    val = TensorSplit(inputs_N=split.inputs_N[: jobs.world_size()], labels_N=split.labels_N[: jobs.world_size()])
    model = models.build(config.model, schema, None, seed=0)
    shape = shape_of(config, jobs.world_size())
    engine = DeepSpeedEngine(model, config, shape, device="cpu", reporter=reporter)
    task = _Noted(tasks.get("causal_lm"))
    work = FitJob(train=config.train, task=task, split_train=split, split_val=val, micro_batch_size=shape.micro_batch_size)
    loop = Loop(work, engine, reporter=reporter, clock=clock, between_steps=watch.mark)
    loop.run_epoch()
    seen = watch.seen()
    return {"losses": task.losses[: job.num_steps], **seen, **_save(job, loop, clock, reporter)}


def _save(job: ZeroJob, loop: Loop, clock: SystemClock, reporter: RecordingReporter) -> dict[str, float]:
    """One checkpoint: seconds that the loop is held, seconds until it is committed, bytes."""
    store = open_store(job.store, settings=Settings(home=Path(job.out).parent))
    writer = CheckpointWriter(
        store,
        "zero",
        attempt=f"attempt-{os.environ['MASTER_PORT']}",
        rank=jobs.rank(),
        world_size=jobs.world_size(),
        clock=clock,
        reporter=reporter,
        timeout_s=600.0,
    )
    began_s = time.perf_counter()
    writer.save(loop.step, loop.epoch, loop.state(), {})
    held_s = time.perf_counter() - began_s
    writer.wait()
    committed_s = time.perf_counter() - began_s
    writer.close()
    return {"checkpoint_held_s": held_s, "checkpoint_s": committed_s, "checkpoint_mb": _size_of(store) / 1e6}


def _size_of(store: ArtifactStore) -> float:
    return float(sum(info.size_bytes for info in store.list("checkpoints/zero/")))


def reference(job: ZeroJob) -> dict[str, object]:
    """Plain torch, by hand, in one process."""
    split, schema = job.split()
    config, watch, losses = job.config(), _Watch(), []
    model = models.build(config.model, schema, None, seed=0).float().train()
    params = [param for param in model.parameters() if param.requires_grad]
    groups = [
        {"params": [param for param in params if param.ndim > 1], "weight_decay": jobs.WEIGHT_DECAY},
        {"params": [param for param in params if param.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=_LR, betas=jobs.BETAS, eps=jobs.EPS)
    order = epoch_batches(split.num_rows, batch_size=job.batch_size, seed=0, epoch=0, rank=0, world_size=1)
    for step, rows_B in enumerate(order):
        watch.mark()
        tokens_BT = split.inputs_N[torch.from_numpy(rows_B)]
        loss = nn.functional.cross_entropy(model(tokens_BT)[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten())
        losses.append(loss.item())
        for group in optimizer.param_groups:
            group["lr"] = _LR * jobs.factor_at(step, job.num_steps)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(params, jobs.MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
    return {"losses": losses, **watch.seen(), "num_params": sum(param.numel() for param in params)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    asked = ZeroJob(**json.loads(Path(sys.argv[1]).read_text()))
    result = reference(asked) if asked.zero_stage is None else train(asked)
    Path(f"{asked.out}.{jobs.rank()}").write_text(json.dumps(result))
    jobs.leave()
