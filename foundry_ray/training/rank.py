"""What one rank of a training job does, whoever started it: build, restore, train epoch by epoch, save what must not be lost.

Free of Ray: `group` calls it in Ray Train workers and, for a single worker with the torch engine, `attempts` in the calling process.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foundry_ray import tasks
from foundry_ray.config import TeacherConfig
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound
from foundry_ray.protocols import ArtifactStore, Clock, Engine, Reporter
from foundry_ray.training.checkpoint import Checkpoint, CheckpointWriter, chosen, committed, keep, restore
from foundry_ray.training.checkpoint.layout import stage_folder
from foundry_ray.training.control import CheckpointControl, best_epoch, ranking
from foundry_ray.training.determinism import deterministic
from foundry_ray.training.elastic import MemoryLimit
from foundry_ray.training.loop import FitJob, Loop, TensorSplit
from foundry_ray.training.preemption import Ask
from foundry_ray.training.shape import Shape
from foundry_ray.training.state import LoopState
from foundry_ray.types import DatasetRef, Json

if TYPE_CHECKING:
    from torch import nn

    from foundry_ray.training.meter import Workload

__all__ = ["Attempt", "Metrics", "Phases", "RankJob", "RankRun", "best_epoch", "curve_of", "kept"]

_MOST_LOOKED_AT = 100_000_000
"""Parameters of the largest model that gets a pass on the CPU before its first step; a larger one tells its faults in that step."""

Metrics = Mapping[str, float]
MakeEngine = Callable[["nn.Module"], Engine]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankJob:
    """What all ranks of a job know, in all attempts. Pickles without credentials."""

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

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps."""
        return self.dataset.splits["train"].num_rows // self.config.train.batch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What all ranks of one attempt know.

    Attributes:
        name: As no other attempt's.
        shape: Workers, and how they share a batch.
        limit: What earlier attempts have learnt about memory; checkpoints remember it.
        use_gpu: Whether each worker has a GPU, or a share of one.
        phases: Seconds of the driver before this attempt was started, by what they went into.
        called_at_s: When it was started, by the driver's clock.
    """

    name: str
    shape: Shape
    limit: MemoryLimit = field(default_factory=MemoryLimit)
    use_gpu: bool = False
    phases: Mapping[str, float] = field(default_factory=dict)
    called_at_s: float = 0.0


class Phases:
    """Seconds by what they went into, one phase after another."""

    def __init__(self, clock: Clock, before: Mapping[str, float]) -> None:
        self.seconds = dict(before)
        self._clock = clock
        self._since_s = clock.monotonic_s()

    def done(self, name: str) -> None:
        """What happened since the last call, or since the beginning, was this."""
        now_s = self._clock.monotonic_s()
        self.seconds[name] = self.seconds.get(name, 0.0) + now_s - self._since_s
        self._since_s = now_s


class RankRun:
    """One rank's part in one attempt.

    Args:
        job: The same on all ranks.
        attempt: The same on all ranks.
        make_engine: Takes the freshly built model.
        reporter: Told progress and warnings.
        clock: Times epochs.
        asked: What the driver asks; it must not block.
        on_start: Told, when a step is done, how many were done before this attempt, and the phases of its start.
        load_engine: Imports what `make_engine` needs, while the data is read.
        phases: Seconds that went by before this, by what they went into.
    """

    def __init__(
        self,
        job: RankJob,
        attempt: Attempt,
        make_engine: MakeEngine,
        *,
        reporter: Reporter,
        clock: Clock,
        asked: Callable[[], Ask] = lambda: Ask.NOTHING,
        on_start: Callable[[int, Mapping[str, float]], None] = lambda first_step, phases: None,
        load_engine: Callable[[], None] = lambda: None,
        phases: Mapping[str, float] | None = None,
    ) -> None:
        self.first_step: int | None = None
        self._job = job
        self._attempt = attempt
        self._make_engine = make_engine
        self._reporter = reporter
        self._clock = clock
        self._asked = asked
        self._on_start = on_start
        self._load_engine = load_engine
        self._phases = Phases(clock, phases or {})
        self._num_begun = 0
        self._loop: Loop | None = None

    @property
    def step(self) -> int | None:
        """Optimizer steps done; None before the loop stands."""
        return self._loop.step if self._loop else None

    def run(self) -> None:
        """Train to the end, from the newest whole checkpoint if there is one; its last checkpoint is committed when this returns.

        Raises:
            Preempted: The driver asked for the end, and the checkpoint of this step is committed.
            Diverged: A loss is not finite.
            StoreError: The last checkpoint could not be saved.
        """
        from foundry_ray.training.meter import workload

        with deterministic(self._job.config.deterministic):
            fit_job, model = self._prepared()
            work = workload(model, fit_job.split_train.inputs_N[:1], warn=self._reporter.warn)  # while the model is whole
            engine = self._make_engine(model)
            self._phases.done("engine")
            with self._writer(engine) as writer:
                control = self._control(writer, engine)
                self._loop = self._restored(fit_job, work, engine, control)
                self._train(self._loop, engine, control)
                control.finish(self._loop, engine)

    def _prepared(self) -> tuple[FitJob, nn.Module]:
        """Data and model, while the engine's libraries are imported."""
        with ThreadPoolExecutor(1, thread_name_prefix="load-data") as pool:
            loading = pool.submit(_fit_job, self._job, self._attempt.shape)
            self._load_engine()
            self._phases.done("imports")
            model = _model(self._job)
            self._phases.done("model")
            fit_job = loading.result()
        _look_at(model, fit_job, self._job)
        self._phases.done("data")
        return fit_job, model

    @contextmanager
    def _writer(self, engine: Engine) -> Iterator[CheckpointWriter]:
        job = self._job
        writer = CheckpointWriter(
            job.store,
            job.stage_key,
            attempt=self._attempt.name,
            rank=engine.rank,
            world_size=engine.world_size,
            clock=self._clock,
            reporter=self._reporter,
            timeout_s=job.config.checkpoint.commit_timeout_s,
            after_commit=lambda checkpoint: _tidy(job),
        )
        try:
            yield writer
        finally:
            writer.close()

    def _control(self, writer: CheckpointWriter, engine: Engine) -> CheckpointControl:
        job = self._job
        meta: dict[str, Json] = {"shape": str(self._attempt.shape), "memory": self._attempt.limit.to_json()}
        return CheckpointControl(
            job.config.checkpoint,
            writer,
            rank=engine.rank,
            clock=self._clock,
            asked=self._asked,
            meta=meta,
            metric=job.metric,
            steps_per_epoch=job.steps_per_epoch,
        )

    def _restored(self, fit_job: FitJob, work: Workload, engine: Engine, control: CheckpointControl) -> Loop:
        """The loop, at the step where it goes on."""
        loop = self._loop_on(fit_job, work, engine, control)
        _restore(self._job, loop, engine, self._reporter)
        control.begin(loop.step)
        self.first_step = loop.step
        self._phases.done("restore")
        return loop

    def _loop_on(self, fit_job: FitJob, work: Workload, engine: Engine, control: CheckpointControl) -> Loop:
        from foundry_ray.training.meter import open_meter
        from foundry_ray.training.precision import resolve_precision

        dtype = resolve_precision(self._job.config.train.precision, engine.device)
        meter = open_meter(work, clock=self._clock, device=engine.device, dtype=dtype, world_size=engine.world_size)
        return Loop(fit_job, engine, reporter=self._reporter, clock=self._clock, between_steps=self._between_steps, control=control, meter=meter)

    def _train(self, loop: Loop, engine: Engine, control: CheckpointControl) -> None:
        while not loop.is_done:
            loop.run_epoch()
            control.after_epoch(loop, engine)
            if engine.rank == 0:
                self._reporter.report(loop.epoch, loop.curve[-1])
                self._reporter.progress(loop.step, loop.num_steps, f"epoch {loop.epoch}/{self._job.config.train.epochs}")

    def _between_steps(self) -> None:
        self._num_begun += 1
        if self._num_begun == 2:
            self._phases.done("first_step")
            self._on_start(self.first_step or 0, self._phases.seconds)


def curve_of(checkpoint: Checkpoint | None) -> list[Metrics]:
    """The metrics of all epochs up to a checkpoint."""
    curve = checkpoint.document.get("curve") if checkpoint is not None else None
    return [_metrics(entry) for entry in curve] if isinstance(curve, list) else []


def kept(checkpoints: Sequence[Checkpoint], job: RankJob) -> frozenset[int]:
    """The steps of those that stay: of the newest `keep_last`, and of the ends of the best `keep_best` epochs."""
    config, best = job.config.checkpoint, ranking(curve_of(checkpoints[-1] if checkpoints else None), job.metric)
    places = {one.step: -float(best.index(one.epoch)) for one in checkpoints if one.meta.get("ends_epoch") and one.epoch in best}
    return chosen(checkpoints, places, keep_last=config.keep_last, keep_best=config.keep_best)


def _tidy(job: RankJob) -> None:
    """Delete what no longer counts. Raises StoreError."""
    keep(job.store, job.stage_key, kept(committed(job.store, job.stage_key), job))


def _metrics(entry: Json) -> Metrics:
    assert isinstance(entry, dict), "a curve holds one mapping per epoch"
    return {name: float(value) for name, value in entry.items() if isinstance(value, (int, float))}


def _fit_job(job: RankJob, shape: Shape) -> FitJob:
    from foundry_ray import data

    train, val = (TensorSplit.of(data.load_split(job.dataset, name, store=job.store)) for name in ("train", "val"))
    return FitJob(
        train=job.config.train,
        task=tasks.get(job.task),
        split_train=train,
        split_val=val,
        augment=job.augment,
        seed=job.seed,
        micro_batch_size=shape.micro_batch_size,
    )


def _model(job: RankJob) -> nn.Module:
    from foundry_ray import models
    from foundry_ray.models.layers import set_dropout

    model = models.build(job.config.model, job.dataset.schema, job.dataset.preprocessing, seed=job.seed)
    set_dropout(model, job.config.train.dropout)
    return model


def _look_at(model: nn.Module, fit_job: FitJob, job: RankJob) -> None:
    """Refuse a model that cannot learn this, with better words than the first step would have. Raises ConfigError."""
    from foundry_ray.training.feed import Feed
    from foundry_ray.training.preflight import preflight

    if sum(param.numel() for param in model.parameters()) <= _MOST_LOOKED_AT:
        import numpy as np

        feed = Feed(fit_job.split_train, ops=job.augment, seed=job.seed, distil=None, device="cpu")
        preflight(model, fit_job.task, job.dataset.schema, feed.batch(np.arange(2), 0))


def _restore(job: RankJob, loop: Loop, engine: Engine, reporter: Reporter) -> None:
    """(c) Restore the newest checkpoint that all ranks can read whole, if there is one. Raises ArtifactCorrupt where there are only broken ones."""
    found = list(committed(job.store, job.stage_key, reporter=reporter))
    state, num_broken = loop.state(), 0
    while (chosen := _agreed(found, engine)) is not None:
        checkpoint = next((one for one in found if _identity(one) == chosen), None)
        problem = "it is not listed" if checkpoint is None else _read(job.store, checkpoint, state, engine)
        if engine.reduce([float(problem is None)])[0] == engine.world_size:
            assert checkpoint is not None, "every rank has read it"
            loop.restored(checkpoint.document)
            return
        num_broken += 1
        if engine.rank == 0:
            reporter.warn(f"the checkpoint of step {int(chosen[0])} is not whole ({problem or 'on another rank'}); an older one is tried.")
        found = [one for one in found if _identity(one) != chosen]
    if num_broken:  # to begin anew on its own, and tidy up later, would throw away what somebody may still mend
        message = f"none of the {num_broken} checkpoints of this training is whole, wanted one to go on from."
        hint = "`foundry store verify --deep` says what is broken; `--fresh teacher` gives them up and trains from the first step."
        raise ArtifactCorrupt(message, hint=hint, key=stage_folder(job.stage_key))


def _agreed(found: Sequence[Checkpoint], engine: Engine) -> tuple[float, float] | None:
    """(c) The newest one that rank 0 sees: what others see may be a moment older."""
    mine = _identity(found[-1]) if engine.rank == 0 and found else (-1.0, -1.0)
    step, name = engine.reduce(mine, mode="max")
    return None if step < 0 else (step, name)


def _identity(checkpoint: Checkpoint) -> tuple[float, float]:
    return float(checkpoint.step), float(zlib.crc32(checkpoint.folder.encode()))


def _read(store: ArtifactStore, checkpoint: Checkpoint, state: LoopState, engine: Engine) -> str | None:
    """Write this rank's part into the live state; says what is wrong, or None."""
    try:
        restore(store, checkpoint, state, rank=engine.rank, world_size=engine.world_size)
    except (ArtifactCorrupt, ArtifactNotFound) as error:
        return error.message
    return None


def memory_of(checkpoint: Checkpoint | None) -> MemoryLimit:
    """What a checkpoint remembers of attempts that ran out of memory."""
    return MemoryLimit.of(checkpoint.meta.get("memory")) if checkpoint is not None else MemoryLimit()
