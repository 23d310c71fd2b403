"""The teacher: Ray Train starts the workers, DeepSpeed trains on them, and the best epoch becomes a model in the store.

Decides: where workers run, when they are restarted, which epoch is kept. Every epoch is committed to the store before it counts, so
the same call after `kill -9` goes on from there and loses at most the epoch that was running. Ray's own storage is scratch.
"""

from __future__ import annotations

import json
import threading
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from foundry_ray import models
from foundry_ray.artifacts.manifests import publish
from foundry_ray.config import Settings, TeacherConfig
from foundry_ray.data.order import epoch_batches
from foundry_ray.errors import ConfigError, FoundryError, StoreError
from foundry_ray.protocols import ArtifactStore, Clock, Reporter
from foundry_ray.training import checkpoint as checkpoints
from foundry_ray.training.checkpoint import Checkpoint
from foundry_ray.training.failures import FailureFacts, FailureKind, RankCrashed, RankFailure, decide
from foundry_ray.training.progress import Listener, StoreReporter
from foundry_ray.training.rank import WEIGHTS, Metrics, RankJob, best_epoch, curve_of, train_rank
from foundry_ray.training.scratch import Scratch, scratch_for
from foundry_ray.types import CompressionRecipe, DatasetRef, Json, ModelArtifact, canonical_sha256

if TYPE_CHECKING:
    from torch import nn

_LISTEN_EVERY_S = 1.0


class RaySession(Protocol):
    """What `fit` asks of a connected Ray session."""

    def resources(self) -> Mapping[str, float]:
        """What the cluster has."""

    def require(self, requested: Mapping[str, float], what: str) -> None:
        """Raises ResourcesUnavailable where it does not fit."""

    def is_here(self) -> bool:
        """Whether all its nodes are this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """A worker group of Ray Train: how many, on what, under which name."""

    job: RankJob
    attempt: str
    num_workers: int
    use_gpu: bool


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
    export: Callable[[nn.Module], bytes],
    cost: Callable[[nn.Module], tuple[int, int]],
    clock: Clock | None = None,
) -> ModelArtifact:
    """Train a model, or go on where an earlier call under the same stage key stopped, and publish its best epoch.

    Args:
        config: Model, training, workers.
        task: Name of the task.
        dataset: Trains on its train split; val chooses the epoch. Test stays shut.
        augment: Random changes of training images.
        seed: Of the weights, the order and the augmentation.
        stage_key: Names the work: checkpoints lie under it.
        store: For data, checkpoints and the model.
        settings: `home` holds Ray's scratch, where all workers are on this machine; else the store does.
        reporter: Told each epoch, the progress, and what was restarted.
        session: A connected Ray session; None trains in this process, with one worker and without DeepSpeed.
        export: Model -> ONNX bytes; what is served.
        cost: Model -> parameters and multiply-accumulates per sample.
        clock: The system's where absent.

    Raises:
        ResourcesUnavailable: The workers do not fit the cluster.
        Diverged: A loss is not finite; the last checkpoint is intact.
        WorkerGroupFailed: Workers failed more often than `config.max_failures`, or twice with the same error.
        ConfigError: Several workers without a session.
    """
    from foundry_ray.clock import SystemClock

    clock = clock or SystemClock()
    _check(config, session)
    job = RankJob(config=config, task=task, dataset=dataset, augment=augment, seed=seed, stage_key=stage_key, store=store)
    last = checkpoints.latest(store, stage_key)
    listener = Listener(store, checkpoints.progress_key(stage_key), reporter, num_known=len(curve_of(last)))
    if last is None or last.epoch < config.train.epochs:
        if session is None:
            _train_here(job, reporter, clock)
        else:
            _train_on_ray(job, session, listener, settings=settings, reporter=reporter)
        last = checkpoints.latest(store, stage_key)
        listener.tell(curve_of(last) if session is not None else [])
    assert last is not None, "training that returns has committed its last epoch"
    return _publish(job, last, export=export, cost=cost, clock=clock)


def _check(config: TeacherConfig, session: RaySession | None) -> None:
    if session is None and config.workers > 1:
        message = f"teacher.workers is {config.workers}, but there is no Ray session; without one a single worker trains."
        raise ConfigError(message, hint="connect to a cluster, or set `teacher.workers: 1`.")


def _check_batches(job: RankJob) -> None:
    """Refuse a batch that the workers cannot share, before any of them starts."""
    num_rows = job.dataset.splits["train"].num_rows
    epoch_batches(num_rows, batch_size=job.config.train.batch_size, seed=0, epoch=0, rank=0, world_size=job.config.workers)


def _train_here(job: RankJob, reporter: Reporter, clock: Clock) -> None:
    from foundry_ray.training.engine import TorchEngine

    _check_batches(job)

    def tell(epoch: int, curve: Sequence[Metrics]) -> None:
        reporter.report(epoch, curve[-1])

    train_rank(job, lambda model: TorchEngine(model, job.config.train), reporter=reporter, clock=clock, barrier=lambda: None, on_epoch=tell)


def _train_on_ray(job: RankJob, session: RaySession, listener: Listener, *, settings: Settings, reporter: Reporter) -> None:
    """Start worker groups until one gets to the end, as `failures.decide` says."""
    group = _Group(job=job, attempt="", num_workers=job.config.workers, use_gpu=_wants_gpu(job.config, session, reporter))
    session.require(_request(group), "teacher.workers")  # first: workers that do not exist need no batch
    _check_batches(job)
    facts = FailureFacts(failures=(), max_failures=job.config.max_failures)
    scratch = scratch_for(job.store, settings.home, is_here=session.is_here())
    scratch.clear(f"train-{_work_name(job)}-")  # of killed drivers: whoever gets here holds the stage's lease
    while True:
        group = replace(group, attempt=f"{_work_name(job)}-{uuid.uuid4().hex[:12]}")
        failures = _run_group(group, listener, scratch=scratch)
        listener.listen(group.attempt)
        if not failures:
            return
        facts = replace(facts, failures=failures)
        decision = decide(facts)
        if decision.error is not None:
            raise decision.error
        reporter.warn(f"{decision.reason}; restarting from the last checkpoint ({facts.num_restarts + 1} of {facts.max_failures}).")
        seen = facts.earlier_signatures | {failure.signature for failure in failures}
        facts = replace(facts, num_restarts=facts.num_restarts + 1, earlier_signatures=seen)


def _wants_gpu(config: TeacherConfig, session: RaySession, reporter: Reporter) -> bool:
    num_gpus = session.resources().get("GPU", 0.0)
    if config.use_gpu == "auto" and 0 < num_gpus < config.workers:
        reporter.warn(f"teacher.use_gpu is auto: {num_gpus:g} GPUs are too few for {config.workers} workers, so they train on CPUs.")
    return config.use_gpu is True or (config.use_gpu == "auto" and num_gpus >= config.workers)


def _request(group: _Group) -> dict[str, float]:
    workers = float(group.num_workers)
    return {"CPU": workers, "GPU": workers} if group.use_gpu else {"CPU": workers}


def _run_group(group: _Group, listener: Listener, *, scratch: Scratch) -> tuple[RankFailure, ...]:
    """Run one worker group to its end and say how its ranks failed; empty if they did not.

    Ray's `fit` blocks in a thread of its own: in the main thread it would take over Ctrl-C for the rest of the process.
    """
    outcome: Future[tuple[RankFailure, ...]] = Future()

    def run() -> None:
        try:
            outcome.set_result(_fit_group(group, scratch))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name=f"train-{group.attempt}", daemon=True).start()
    try:
        while not outcome.done():
            wait([outcome], timeout=_LISTEN_EVERY_S)
            listener.listen(group.attempt)
    except BaseException:
        listener.stop(group.attempt)
        raise
    return outcome.result()


def _fit_group(group: _Group, scratch: Scratch) -> tuple[RankFailure, ...]:
    import ray.exceptions
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    name = f"train-{group.attempt}"
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"group": group},
        scaling_config=ray.train.ScalingConfig(num_workers=group.num_workers, use_gpu=group.use_gpu, resources_per_worker=_per_worker(group)),
        torch_config=TorchConfig(backend="nccl" if group.use_gpu else "gloo"),
        run_config=ray.train.RunConfig(
            name=name,
            **scratch.storage(),
            failure_config=ray.train.FailureConfig(max_failures=0),
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
        ),
    )
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        return tuple(_rank_failure(rank, failure) for rank, failure in sorted(error.worker_failures.items()))
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        return (RankFailure(rank=-1, kind=FailureKind.DIED, text=f"Ray Train's controller: {error}"),)
    finally:
        with suppress(StoreError):  # what stays is cleared by the next attempt
            scratch.clear(name)
    return ()


def _work_name(job: RankJob) -> str:
    """Of the stage in its store: the same stage in another store has a lease of its own, and may run at the same time."""
    return canonical_sha256([job.store.uri, job.stage_key])[:12]


def _per_worker(group: _Group) -> dict[str, float]:
    return {"CPU": 1.0, "GPU": 1.0} if group.use_gpu else {"CPU": 1.0}


def _rank_failure(rank: int, failure: Exception) -> RankFailure:
    if isinstance(failure, FoundryError):
        return RankFailure(rank=rank, kind=FailureKind.RAISED, text=str(failure), error=failure)
    if isinstance(failure, RankCrashed):
        return RankFailure(rank=rank, kind=FailureKind.CRASHED, text=failure.text)
    return RankFailure(rank=rank, kind=FailureKind.DIED, text=f"{type(failure).__name__}: {failure}")


def _worker(config: dict[str, _Group]) -> None:
    """The border of a Ray Train worker: foundry's errors pass, all others become text that survives the journey."""
    try:
        _work(config["group"])
    except FoundryError:
        raise
    except Exception as error:
        raise RankCrashed(traceback.format_exc()) from error


def _work(group: _Group) -> None:
    import ray.train
    import torch.distributed

    from foundry_ray.clock import SystemClock
    from foundry_ray.training.deepspeed import DeepSpeedEngine
    from foundry_ray.training.precision import resolve_device

    job, clock, context = group.job, SystemClock(), ray.train.get_context()
    is_first = context.get_world_rank() == 0
    reporter = StoreReporter(job.store, checkpoints.progress_key(job.stage_key) if is_first else None, attempt=group.attempt, clock=clock)

    def engine_for(model: nn.Module) -> DeepSpeedEngine:
        device = resolve_device(use_gpu=group.use_gpu, local_rank=context.get_local_rank())
        return DeepSpeedEngine(model, job.config.train, zero_stage=job.config.deepspeed.zero_stage, device=device, reporter=reporter)

    def tell(epoch: int, curve: Sequence[Metrics]) -> None:
        reporter.epochs(curve)
        ray.train.report({"epoch": epoch, **curve[-1]})

    train_rank(job, engine_for, reporter=reporter, clock=clock, barrier=torch.distributed.barrier, on_epoch=tell)


def _publish(
    job: RankJob, last: Checkpoint, *, export: Callable[[nn.Module], bytes], cost: Callable[[nn.Module], tuple[int, int]], clock: Clock
) -> ModelArtifact:
    curve = curve_of(last)
    best = best_epoch(curve, job.metric)
    chosen = next(one for one in checkpoints.committed(job.store, job.stage_key) if one.epoch == best)
    weights = checkpoints.read(job.store, chosen, WEIGHTS)
    model = models.build(job.config.model, job.dataset.schema, job.dataset.preprocessing, seed=job.seed)
    model.load_state_dict(models.tensors_from_bytes(weights))
    model.eval()
    onnx, (num_params, num_macs) = export(model), cost(model)
    architecture = json.dumps(models.describe(model), sort_keys=True).encode()
    files = {WEIGHTS: weights, "architecture.json": architecture, "model.onnx": onnx}
    meta: Json = {"stage_key": job.stage_key, "epoch": best, "task": job.task, "classes": list(job.dataset.schema.classes)}
    created_at = datetime.fromtimestamp(clock.now_s(), UTC).isoformat(timespec="seconds")
    return ModelArtifact(
        artifact=publish(job.store, kind="model", files=files, meta=meta, created_at=created_at),
        family=job.config.model.family,
        num_params=num_params,
        num_macs=num_macs,
        size_bytes=len(onnx),
        recipe=CompressionRecipe(),
        parents=(job.dataset.key,),
        val_metrics=curve[best - 1],
        curve=tuple(curve),
    )
