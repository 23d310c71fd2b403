"""One group of Ray Train workers, from its start to its end: the only place of training that imports Ray.

Ray Train places the workers, joins them and watches over them. It restarts nothing (`attempts` decides that) and keeps nothing: a group's end is
a tuple of how its ranks failed. Its `fit` blocks in a thread of its own, because in the main thread it would take over Ctrl-C for good.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foundry_ray.errors import FoundryError, StoreError
from foundry_ray.training.elastic import request_of
from foundry_ray.training.failures import FailureKind, RankCrashed, RankFailure
from foundry_ray.training.rank import Attempt, RankJob
from foundry_ray.training.scratch import Scratch

if TYPE_CHECKING:
    from torch import nn

    from foundry_ray.protocols import Engine

_NOT_STARTED = ("WorkerGroupStartupTimeoutError", "InsufficientClusterResourcesError")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What a group of workers is called, and what each of them gets.

    Attributes:
        per_worker: Resources, as Ray names them.
        env: Variables of its environment.
    """

    name: str
    num_workers: int
    use_gpu: bool
    per_worker: Mapping[str, float]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a worker of a training is told."""

    job: RankJob
    attempt: Attempt


def run_group(job: RankJob, attempt: Attempt, scratch: Scratch) -> tuple[RankFailure, ...]:
    """Run a group to its end and say how its ranks failed; empty if they did not."""
    group = Group(
        name=f"train-{attempt.name}",
        num_workers=attempt.shape.num_workers,
        use_gpu=attempt.use_gpu,
        per_worker=request_of(job.config, use_gpu=attempt.use_gpu),
        env=_worker_env(job, attempt),
    )
    return run_workers(_worker, _Work(job=job, attempt=attempt), group, scratch)


def run_workers(worker: Callable[[dict[str, Any]], None], work: object, group: Group, scratch: Scratch) -> tuple[RankFailure, ...]:
    """Run `worker({"work": work})` on all workers of a group, which are joined by torch.distributed, and say how they failed."""
    import ray.exceptions
    import ray.train

    try:
        _trainer_class()(worker, train_loop_config={"work": work}, **_settings(group, scratch)).fit()
    except ray.train.WorkerGroupError as error:
        return tuple(_of_rank(rank, failure) for rank, failure in sorted(error.worker_failures.items())) or (_of_controller(error),)
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        return (_of_controller(error),)
    finally:
        with suppress(StoreError):  # what stays is cleared by the next attempt
            scratch.clear(group.name)
    return ()


def _trainer_class() -> Any:
    """Ray's trainer without the actor that deals out shards of Ray Data: it would start with each group, and nobody asks it for anything."""
    from ray.train.torch import TorchTrainer

    class WithoutData(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ != "DatasetsCallback"]

    return WithoutData


def _settings(group: Group, scratch: Scratch) -> dict[str, Any]:
    import ray.train
    from ray.train.torch import TorchConfig

    has_whole_gpus = group.use_gpu and group.per_worker.get("GPU", 0.0) >= 1  # NCCL refuses two ranks on one device
    failures = ray.train.FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0)
    return {
        "scaling_config": ray.train.ScalingConfig(
            num_workers=group.num_workers,
            use_gpu=group.use_gpu,
            resources_per_worker=dict(group.per_worker),
        ),
        "torch_config": TorchConfig(backend="nccl" if has_whole_gpus else "gloo"),
        "run_config": ray.train.RunConfig(
            name=group.name,
            **scratch.storage(),
            failure_config=failures,
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
            worker_runtime_env={"env_vars": dict(group.env)} if group.env else None,
        ),
    }


def _worker_env(job: RankJob, attempt: Attempt) -> dict[str, str]:
    """cuBLAS is deterministic only with a workspace of fixed size, which it takes from the environment of a process."""
    is_asked = job.config.deterministic and attempt.use_gpu
    return {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if is_asked else {}


def _of_rank(rank: int, failure: Exception) -> RankFailure:
    if isinstance(failure, FoundryError):
        return RankFailure(rank=rank, kind=FailureKind.RAISED, text=str(failure), error=failure)
    if isinstance(failure, RankCrashed):
        return RankFailure(rank=rank, kind=FailureKind.CRASHED, text=failure.text, step=failure.step, first_step=failure.first_step)
    cause = getattr(failure, "health_check_failure", failure)
    kind = FailureKind.LOST_NODE if getattr(cause, "preempted", False) else FailureKind.DIED
    return RankFailure(rank=rank, kind=kind, text=f"{type(cause).__name__}: {cause}")


def _of_controller(error: Exception) -> RankFailure:
    cause = getattr(error, "controller_failure", error)
    kind = FailureKind.NOT_STARTED if type(cause).__name__ in _NOT_STARTED else FailureKind.DIED
    return RankFailure(rank=-1, kind=kind, text=f"Ray Train's controller: {type(cause).__name__}: {cause}")


def _worker(config: dict[str, _Work]) -> None:
    """The border of a Ray Train worker: foundry's errors pass, all others become text that survives the journey."""
    from foundry_ray.training.rank import RankRun

    runs: list[RankRun] = []
    try:
        _train(config["work"], runs)
    except FoundryError:
        raise
    except Exception as error:
        step, first_step = (runs[0].step, runs[0].first_step) if runs else (None, None)
        raise RankCrashed(traceback.format_exc(), step, first_step) from error


def _train(work: _Work, runs: list[Any]) -> None:
    """What a worker does; the run that it makes is put into `runs`, so that the border knows how far it came."""
    import ray.train

    from foundry_ray.clock import SystemClock
    from foundry_ray.training.checkpoint import progress_key
    from foundry_ray.training.preemption import Ear, ask_key
    from foundry_ray.training.progress import Beat, StoreReporter
    from foundry_ray.training.rank import RankRun

    job, attempt, clock = work.job, work.attempt, SystemClock()
    key, is_first = progress_key(job.stage_key), ray.train.get_context().get_world_rank() == 0
    reporter = StoreReporter(job.store, key if is_first else None, attempt=attempt.name)
    ear = Ear(job.store, ask_key(key, attempt.name))
    device = device_of_worker(use_gpu=attempt.use_gpu)
    nodes = _nodes()
    reporter.placed(nodes)

    def make_engine(model: nn.Module) -> Engine:
        from foundry_ray.training.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(model, job.config, attempt.shape, device=device, reporter=reporter)

    begun = _since(attempt.phases, clock.now_s() - attempt.called_at_s)
    run = RankRun(
        job,
        attempt,
        make_engine,
        reporter=reporter,
        clock=clock,
        asked=ear.heard,
        on_start=reporter.started,
        load_engine=_load_engine,
        phases=begun,
    )
    runs.append(run)
    with Beat(*((ear.listen, reporter.tick) if is_first else ()), name="beat"):
        run.run()


def _since(before: Mapping[str, float], seconds: float) -> dict[str, float]:
    """`group`: from the driver's call of Ray Train to here; on two machines their clocks differ by what NTP leaves."""
    return {**before, "group": seconds}


def _load_engine() -> None:
    from foundry_ray.training.deepspeed.loading import prepare

    importlib.import_module("foundry_ray.training.deepspeed.engine")
    prepare()


def device_of_worker(*, use_gpu: bool) -> str:
    """This worker's, as Ray assigned it: several workers may share one."""
    if not use_gpu:
        return "cpu"
    import ray.train.torch
    import torch

    device = ray.train.torch.get_device()
    torch.cuda.set_device(device)
    return str(device)


def _nodes() -> tuple[str, ...]:
    """Where the ranks of this group run."""
    import ray
    import torch.distributed

    mine = ray.get_runtime_context().get_node_id()
    found: list[str] = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, mine)
    return tuple(sorted(set(found)))
