"""Attempts at a training, one after another, until one gets to the end: what they share, and those of one worker in this process.

That worker trains in a thread, so that Ctrl-C reaches the driver and not the middle of a step: it is asked to stop, saves a checkpoint and
ends. `on_ray` does the same with groups of workers.
"""

from __future__ import annotations

import gc
import threading
import traceback
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from foundry_ray.config import TeacherConfig
from foundry_ray.errors import ConfigError, FoundryError, StoreError
from foundry_ray.protocols import Clock, Reporter
from foundry_ray.training import elastic, failures
from foundry_ray.training.checkpoint import latest
from foundry_ray.training.checks import resolved_engine
from foundry_ray.training.elastic import MemoryLimit
from foundry_ray.training.failures import Budgets, FailureFacts, FailureKind, RankFailure, Spent
from foundry_ray.training.preemption import Ask
from foundry_ray.training.progress import start_metrics
from foundry_ray.training.rank import Attempt, RankJob, RankRun
from foundry_ray.types import canonical_sha256

_LISTEN_EVERY_S = 1.0
_LEAVE_S = 30.0
"""Longest wait for the last checkpoint of a group that is asked to stop because this process ends; a second Ctrl-C ends the wait."""

_ASKED: Mapping[Ask, failures.Asked] = {Ask.PREEMPTED: "preempted", Ask.RESIZE: "resize"}


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What attempts have cost and taught so far."""

    job: RankJob
    reporter: Reporter
    limit: MemoryLimit
    spent: Spent = field(default_factory=Spent)

    def attempt(self, num_workers: int, *, use_gpu: bool = False) -> Attempt:
        """The next one, with this many workers."""
        return Attempt(
            name=f"{work_name(self.job)}-{uuid.uuid4().hex[:12]}",
            shape=elastic.shape_within(self.job.config, num_workers, self.limit),
            limit=self.limit,
            use_gpu=use_gpu,
        )

    def failed(self, attempt: Attempt, failed: tuple[RankFailure, ...], asked: Ask = Ask.NOTHING) -> None:
        """Make ready for another attempt, or raise what ends the training."""
        config = self.job.config
        budgets = Budgets(max_failures=config.max_failures, max_preemptions=config.max_preemptions, max_memory_retries=config.max_memory_retries)
        facts = FailureFacts(
            failures=failed,
            shape=attempt.shape,
            budgets=budgets,
            spent=self.spent,
            asked=_ASKED.get(asked, ""),
            max_zero_stage=max_zero_stage(config, attempt.shape.zero_stage),
            checkpoint_step=_newest_step(self.job),
        )
        decision = failures.decide(facts)
        if decision.error is not None:
            raise decision.error
        self.spent = decision.spent
        if decision.shape != attempt.shape:
            self.limit = MemoryLimit(micro_batch_size=decision.shape.micro_batch_size, zero_stage=decision.shape.zero_stage)
        counted = f" ({decision.counted})" if decision.counted else ""
        self.reporter.warn(f"{decision.reason}; restarting from the last checkpoint{counted}.")


def _newest_step(job: RankJob) -> int:
    try:
        newest = latest(job.store, job.stage_key)
    except StoreError:
        return -1  # budgets are filled again when there is an answer
    return newest.step if newest is not None else -1


def work_name(job: RankJob) -> str:
    """Of the stage in its store: the same stage in another store has a lease of its own, and may run at the same time."""
    return canonical_sha256([job.store.uri, job.stage_key])[:12]


def max_zero_stage(config: TeacherConfig, stage: int) -> int:
    """The highest ZeRO stage, from this one on, that the configuration can use."""
    if resolved_engine(config) != "deepspeed":
        return stage
    from foundry_ray.training.deepspeed.config import check_deepspeed

    for higher in range(stage + 1, 4):
        try:
            check_deepspeed(config, zero_stage=higher)
        except ConfigError:
            return higher - 1
    return 3


def train_here(job: RankJob, limit: MemoryLimit, *, reporter: Reporter, clock: Clock, called_s: float) -> None:
    """Train in this process, with the torch engine, until it is done. Raises as `failures` decides, and what user code raises as it is."""
    ledger = Ledger(job=job, reporter=reporter, limit=limit)
    while True:
        attempt = ledger.attempt(1)
        before = {"driver": clock.monotonic_s() - called_s}
        failure = _run_here(job, attempt, reporter, clock, before)
        if failure is None:
            return
        ledger.failed(attempt, (failure,))
        _give_back_memory()
        called_s = clock.monotonic_s()


def _give_back_memory() -> None:
    """An error holds the frames that it went through, in a circle, and these hold the weights: the next attempt would need memory for both."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()  # nothing where there is no GPU


class _Box:
    """What the driver's thread asks of the training's."""

    def __init__(self) -> None:
        self.asked = Ask.NOTHING


def _run_here(job: RankJob, attempt: Attempt, reporter: Reporter, clock: Clock, before: Mapping[str, float]) -> RankFailure | None:
    """One attempt. What another attempt may mend comes back; all else is raised."""
    from foundry_ray.training.engine import TorchEngine
    from foundry_ray.training.precision import resolve_device

    config, box = job.config, _Box()
    device = resolve_device(use_gpu=_has_gpu_here(config))
    run = RankRun(
        job,
        attempt,
        lambda model: TorchEngine(
            model,
            config.train,
            device=device,
            accumulation=attempt.shape.accumulation,
            compile=config.compile,
            activation_checkpointing=config.activation_checkpointing,
            loss_scale=config.deepspeed.loss_scale,
        ),
        reporter=reporter,
        clock=clock,
        asked=lambda: box.asked,
        on_start=lambda first_step, phases: reporter.metrics(first_step, start_metrics(phases)),
        phases=before,
    )

    def leave() -> bool:
        box.asked = Ask.LEAVE
        return run.step is not None

    try:
        in_thread(run.run, name="train", meanwhile=lambda: None, leave=leave)
    except FoundryError as error:
        return RankFailure(rank=0, kind=FailureKind.RAISED, text=str(error), error=error)
    except Exception:
        failure = RankFailure(rank=0, kind=FailureKind.CRASHED, text=traceback.format_exc(), step=run.step, first_step=run.first_step)
        if not failure.is_out_of_memory:
            raise
        return failure
    return None


def _has_gpu_here(config: TeacherConfig) -> bool:
    import torch

    return config.use_gpu is True or (config.use_gpu == "auto" and torch.cuda.is_available())


def in_thread(work: Callable[[], object], *, name: str, meanwhile: Callable[[], None], leave: Callable[[], bool]) -> object:
    """Run work in a thread and return what it returns.

    Args:
        work: Runs to its end.
        name: Of the thread.
        meanwhile: Called about once a second.
        leave: Called where this process is to end: asks the work to stop, and says whether that is worth a wait.
    """
    outcome: Future[object] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        while not outcome.done():
            wait([outcome], timeout=_LISTEN_EVERY_S)
            meanwhile()
    except BaseException:
        if leave():
            wait([outcome], timeout=_LEAVE_S)
        raise
    thread.join()  # it holds nothing any more
    return outcome.result()
