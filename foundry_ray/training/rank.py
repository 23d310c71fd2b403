"""What one rank of a training job does, whoever started it: build, restore, train epoch by epoch, checkpoint each.

Free of Ray: `trainer` calls it in Ray Train workers and, for a single worker without a cluster, in the calling process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray import data, models, tasks
from foundry_ray.config import TeacherConfig
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound
from foundry_ray.protocols import ArtifactStore, Clock, Engine, Reporter
from foundry_ray.training import checkpoint as checkpoints
from foundry_ray.training.checkpoint import Checkpoint
from foundry_ray.training.loop import FitJob, Loop, TensorSplit
from foundry_ray.types import DatasetRef, Json

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "model.safetensors"
_NUM_LATEST = 2

Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankJob:
    """What all ranks of a job know. Pickles without credentials."""

    config: TeacherConfig
    task: str
    dataset: DatasetRef
    augment: tuple[str, ...]
    seed: int
    stage_key: str
    store: ArtifactStore

    @property
    def metric(self) -> str:
        """The task's primary metric: what chooses the best epoch."""
        return tasks.get(self.task).primary_metric


def train_rank(
    job: RankJob,
    make_engine: Callable[[nn.Module], Engine],
    *,
    reporter: Reporter,
    clock: Clock,
    barrier: Callable[[], None],
    on_epoch: Callable[[int, Sequence[Metrics]], None],
) -> None:
    """Train to the last epoch, from the newest whole checkpoint if there is one.

    Args:
        job: The same on all ranks.
        make_engine: Takes the freshly built model.
        reporter: Told progress and warnings.
        clock: Times epochs.
        barrier: Returns when all ranks have called it.
        on_epoch: Called after each committed epoch with its number, from 1, and the metrics of all epochs so far.
    """
    model = models.build(job.config.model, job.dataset.schema, job.dataset.preprocessing, seed=job.seed)
    engine = make_engine(model)
    loop = Loop(_fit_job(job), engine, reporter=reporter, clock=clock)
    curve = _restore(job, loop, engine, reporter)
    while loop.epoch < job.config.train.epochs:
        curve.append(loop.run_epoch())
        _save(job, loop, engine, curve, barrier)
        on_epoch(loop.epoch, curve)


def best_epoch(curve: Sequence[Metrics], metric: str) -> int:
    """The epoch, from 1, with the highest metric; among equals the lowest validation loss, then the earliest."""
    return max(range(len(curve)), key=lambda index: (curve[index][metric], -curve[index]["val_loss"], -index)) + 1


def curve_of(checkpoint: Checkpoint | None) -> list[Metrics]:
    """The metrics of all epochs up to a checkpoint."""
    meta = checkpoint.meta if checkpoint is not None else None
    curve = meta.get("curve") if isinstance(meta, dict) else None
    return [_metrics(entry) for entry in curve] if isinstance(curve, list) else []


def _metrics(entry: Json) -> Metrics:
    assert isinstance(entry, dict), "a curve holds one mapping per epoch"
    return {name: float(value) for name, value in entry.items() if isinstance(value, (int, float))}


def _fit_job(job: RankJob) -> FitJob:
    train, val = (TensorSplit.of(data.load_split(job.dataset, name, store=job.store)) for name in ("train", "val"))
    return FitJob(train=job.config.train, task=tasks.get(job.task), split_train=train, split_val=val, augment=job.augment, seed=job.seed)


def _restore(job: RankJob, loop: Loop, engine: Engine, reporter: Reporter) -> list[Metrics]:
    """Load the newest checkpoint that all ranks can read whole; returns its curve."""
    for checkpoint in reversed(checkpoints.committed(job.store, job.stage_key)):
        with tempfile.TemporaryDirectory(prefix="foundry-restore-") as folder:
            problem = _fetch(job, checkpoint, engine, Path(folder))
            num_ready = engine.reduce_sum([0.0 if problem else 1.0])[0]
            if num_ready == engine.world_size:
                loop.load(Path(folder))
                return curve_of(checkpoint)
            reporter.warn(f"the checkpoint of epoch {checkpoint.epoch} is not whole ({problem or 'on another rank'}); an older one is tried.")
    return []


def _fetch(job: RankJob, checkpoint: Checkpoint, engine: Engine, folder: Path) -> str | None:
    """Fetch what this rank needs; says what is wrong, or None. At another world size, who needs what is not known: all."""
    ranks = {0, engine.rank} if checkpoint.world_size == engine.world_size else None
    try:
        checkpoints.fetch(job.store, checkpoint, folder, ranks=ranks)
    except (ArtifactCorrupt, ArtifactNotFound) as error:
        return error.message
    return None


def _save(job: RankJob, loop: Loop, engine: Engine, curve: Sequence[Metrics], barrier: Callable[[], None]) -> None:
    weights = loop.eval_model().state_dict()
    with tempfile.TemporaryDirectory(prefix="foundry-save-") as folder:
        loop.save(Path(folder))
        files: dict[str, bytes | Path] = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*.pt")}
        if engine.rank == 0:
            files[WEIGHTS] = models.tensors_to_bytes(weights)
        checkpoints.put_part(job.store, job.stage_key, loop.epoch, engine.rank, files)
    barrier()
    if engine.rank == 0:
        _commit(job, loop.epoch, engine.world_size, curve)


def _commit(job: RankJob, epoch: int, world_size: int, curve: Sequence[Metrics]) -> None:
    best = best_epoch(curve, job.metric)
    meta: dict[str, Json] = {"curve": [dict(metrics) for metrics in curve], "best_epoch": best}
    checkpoints.commit(job.store, job.stage_key, epoch, world_size=world_size, meta=meta)
    checkpoints.keep(job.store, job.stage_key, {best, *range(epoch - _NUM_LATEST + 1, epoch + 1)})
