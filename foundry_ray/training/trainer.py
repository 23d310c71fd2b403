"""The teacher: Ray Train starts the workers, DeepSpeed trains on them, and the best epoch becomes a model in the store.

Decides who trains and what is published; `on_ray` and `attempts` start workers and restart them. All progress is in checkpoints in the store,
so the same call after `kill -9` goes on from the last one. Ray's own storage is scratch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from foundry_ray import models
from foundry_ray.artifacts.manifests import publish
from foundry_ray.clock import utc
from foundry_ray.config import Settings, TeacherConfig
from foundry_ray.errors import ArtifactNotFound, ConfigError
from foundry_ray.protocols import ArtifactStore, Clock, Reporter
from foundry_ray.training import checkpoint as checkpoints
from foundry_ray.training import stopping
from foundry_ray.training.attempts import train_here
from foundry_ray.training.checkpoint import Checkpoint
from foundry_ray.training.checks import check_rows, check_training, resolved_engine
from foundry_ray.training.control import ranking
from foundry_ray.training.on_ray import OnRay, RaySession
from foundry_ray.training.progress import Listener
from foundry_ray.training.rank import RankJob, curve_of, memory_of
from foundry_ray.types import CompressionRecipe, DatasetRef, Json, ModelArtifact

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "model.safetensors"


def fit(
    config: TeacherConfig,
    *,
    task: str,
    dataset: DatasetRef,
    augment: tuple[str, ...],
    seed: int,
    stage_key: str,
    store: ArtifactStore,
    settings: Settings,
    reporter: Reporter,
    session: RaySession | None,
    export: Callable[[nn.Module], bytes] | None,
    cost: Callable[[nn.Module], tuple[int, int]],
    clock: Clock | None = None,
) -> ModelArtifact:
    """Train a model, or go on where an earlier call under the same stage key stopped, and publish its best epoch.

    Args:
        config: Model, training, workers.
        task: Name of the task.
        dataset: Trains on its train split; val chooses the epoch. Test stays shut.
        augment: Random changes of training images.
        seed: Of the weights, the order, the augmentation and all else that is random.
        stage_key: Names the work: checkpoints lie under it.
        store: For data, checkpoints and the model.
        settings: `home` holds Ray's scratch, where all workers are on this machine; else the store does.
        reporter: Told epochs, metrics, progress, the seconds of the start (`progress.start_metrics`), and what was restarted.
        session: A connected Ray session. The torch engine trains in this process and needs none.
        export: Model -> ONNX bytes, what is served; None publishes weights and architecture alone.
        cost: Model -> parameters and multiply-accumulates per sample.
        clock: The system's where absent.

    Raises:
        ConfigError: Keys contradict each other, or DeepSpeed is wanted without a session.
        OutOfRange: The batch fits neither the data nor the workers.
        ResourcesUnavailable: The workers do not fit the cluster, or the smallest shape does not fit their memory.
        Diverged: A loss is not finite; the last checkpoint is intact.
        WorkerGroupFailed: Workers failed more often than `config.max_failures`, or with an error that would only come again.
    """
    from foundry_ray.clock import SystemClock

    clock = clock or SystemClock()
    called_s = clock.monotonic_s()
    check_training(config)
    job = RankJob(config=config, task=task, dataset=dataset, augment=augment, seed=seed, stage_key=stage_key, store=store)
    last = checkpoints.latest(store, stage_key, reporter=reporter)
    if not _is_done(job, last):
        _train(job, last, session, settings=settings, reporter=reporter, clock=clock, called_s=called_s)
    return _publish(job, reporter, export=export, cost=cost, clock=clock)


def _is_done(job: RankJob, last: Checkpoint | None) -> bool:
    """Whether the last epoch was judged and saved, or early stopping had enough."""
    if last is None or not last.meta.get("ends_epoch"):
        return False
    return last.epoch >= job.config.train.epochs or stopping.is_over(curve_of(last), job.metric, job.config.train)


def _train(
    job: RankJob, last: Checkpoint | None, session: RaySession | None, *, settings: Settings, reporter: Reporter, clock: Clock, called_s: float
) -> None:
    from foundry_ray.training.group import run_group

    limit = memory_of(last)
    if resolved_engine(job.config) == "torch":
        check_rows(job.config, job.dataset)
        train_here(job, limit, reporter=reporter, clock=clock, called_s=called_s)
        return
    if session is None:
        message = (
            f"teacher.workers is {job.config.workers} and teacher.engine is {job.config.engine}, but there is no Ray session to start workers in."
        )
        raise ConfigError(message, hint="connect to a cluster, or set `teacher.workers: 1` and `teacher.engine: torch`.")
    listener = Listener(job.store, checkpoints.progress_key(job.stage_key), reporter, num_known=len(curve_of(last)))
    groups = OnRay(job, session, listener, settings=settings, reporter=reporter, clock=clock, limit=limit, run_group=run_group)
    check_rows(job.config, job.dataset)  # after: workers that cannot be need no rows
    groups.train(called_s=called_s)
    listener.tell(curve_of(checkpoints.latest(job.store, job.stage_key)))


def _publish(
    job: RankJob,
    reporter: Reporter,
    *,
    export: Callable[[nn.Module], bytes] | None,
    cost: Callable[[nn.Module], tuple[int, int]],
    clock: Clock,
) -> ModelArtifact:
    last, chosen = _chosen(job, reporter)
    curve = curve_of(last)
    model = models.build(job.config.model, job.dataset.schema, job.dataset.preprocessing, seed=job.seed)
    checkpoints.fill(job.store, chosen, model)
    model.eval()
    weights, (num_params, num_macs) = models.tensors_to_bytes(model.state_dict()), cost(model)
    architecture = json.dumps(models.describe(model), sort_keys=True).encode()
    served = {} if export is None else {"model.onnx": export(model)}
    meta: Json = {"stage_key": job.stage_key, "epoch": chosen.epoch, "task": job.task, "classes": list(job.dataset.schema.classes)}
    created_at = utc(clock.now_s())
    files = {WEIGHTS: weights, "architecture.json": architecture, **served}
    return ModelArtifact(
        artifact=publish(job.store, kind="model", files=files, meta=meta, created_at=created_at),
        family=job.config.model.family,
        num_params=num_params,
        num_macs=num_macs,
        size_bytes=len(served.get("model.onnx", weights)),
        recipe=CompressionRecipe(),
        parents=(job.dataset.key,),
        val_metrics=curve[chosen.epoch - 1],
        curve=tuple(curve),
        notes=_notes(last),
    )


def _chosen(job: RankJob, reporter: Reporter) -> tuple[Checkpoint, Checkpoint]:
    """The last checkpoint, and that of the best epoch: of the best that was saved, where the store had refused the best."""
    found = checkpoints.committed(job.store, job.stage_key, reporter=reporter)
    ends = {one.epoch: one for one in found if one.meta.get("ends_epoch")}
    order = ranking(curve_of(found[-1]) if found else [], job.metric)
    best = next((epoch for epoch in order if epoch in ends), None)
    if best is None:
        key = checkpoints.progress_key(job.stage_key).rpartition("/")[0]
        raise ArtifactNotFound(f"there is no checkpoint of a whole epoch under {key}.", hint="train again: `--fresh teacher`.", key=key)
    if best != order[0]:
        reporter.warn(f"epoch {order[0]} was the best, but its checkpoint could not be saved: epoch {best} is published.")
    return found[-1], ends[best]


def _notes(last: Checkpoint) -> tuple[str, ...]:
    """What was trained otherwise than asked."""
    limit = memory_of(last)
    return (f"memory was short: trained as {last.meta['shape']}, the batch as configured",) if limit.is_known else ()
