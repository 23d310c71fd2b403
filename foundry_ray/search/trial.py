"""What one trial does, without Ray: build the student, reject it cheaply, train it to a rung, keep the state.

Channel counts and bits are fixed before the first step, so cost, bytes and latency are known before training: a recipe that breaks
a hard constraint costs no training step. What a rung reports is what would be shipped (int8 is simulated). A trial is a prefix of
the training that the chosen one gets, so its checkpoint is where that training goes on.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from foundry_ray import tasks
from foundry_ray.config import StudentConfig, TrainConfig, validate
from foundry_ray.data.loading import Split
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, Diverged, RecipeInfeasible
from foundry_ray.protocols import ArtifactStore, Clock, LatencyMeter, Reporter
from foundry_ray.search import constraints as limits
from foundry_ray.search.events import Event, Job
from foundry_ray.types import CompressionRecipe, ImageSchema, Json, Scalar, Trial, canonical_sha256, to_json

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from foundry_ray.compression import TrainedStudent
    from foundry_ray.training.loop import DistilTargets, Loop


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialContext:
    """What all trials of a study share. Its arrays may be read-only views of shared memory.

    Attributes:
        logits_VNC: The teacher's logits on V views of each training row, float16; None where no recipe distils.
        teacher_tensors: The teacher's weights as safetensors.
        seed: Of the augmentation and the order of rows, the same for all trials and for `logits_VNC`.
        prefix: Where trials keep their checkpoints in the store.
    """

    train: Split
    val: Split
    logits_VNC: np.ndarray | None
    teacher_description: Json
    teacher_tensors: bytes
    family: str
    schema: ImageSchema
    task: str
    augment: tuple[str, ...]
    student: StudentConfig
    constraints: tuple[limits.Constraint, ...]
    batch_size: int
    seed: int
    prefix: str

    @property
    def calibration(self) -> np.ndarray:
        """Training rows (N, C, H, W) that set int8 ranges."""
        return self.train.images_NCHW[: self.student.calibration_rows]


def _nothing() -> None:
    """The default of `between_steps`."""


class TrialRunner:
    """Runs jobs of one study, one after another, in one process.

    Args:
        meter: Measures a graph before it is trained.
        between_steps: Called before each training step; blocks while somebody measures on this node.
        device: `cpu` or `cuda:<index>`.
    """

    def __init__(
        self,
        context: TrialContext,
        *,
        store: ArtifactStore,
        meter: LatencyMeter,
        clock: Clock,
        reporter: Reporter,
        between_steps: Callable[[], None] = _nothing,
        device: str = "cpu",
    ) -> None:
        from foundry_ray import models

        self._context = context
        self._store = store
        self._meter = meter
        self._clock = clock
        self._reporter = reporter
        self._between_steps = between_steps
        self._device = device
        self._teacher = models.rebuild(context.teacher_description)
        models.load_tensors(self._teacher, models.tensors_from_bytes(context.teacher_tensors))
        self._teacher.eval()

    def __call__(self, job: Job) -> Iterator[Event]:
        """The events of a job, ending with `rung`, `infeasible` or `failed`. An executor may stop asking after any of them."""
        try:
            yield from self._run(job)
        except RecipeInfeasible as error:
            yield Event(kind="infeasible", number=job.number, excess=1.0, error=error.message)
        except Diverged as error:
            yield Event(kind="failed", number=job.number, error=error.message)

    def finish(self, trial: Trial, *, prefix: str) -> TrainedStudent:
        """Train on from the trial's last rung to the full budget, with a checkpoint under `prefix` after each epoch, from which it resumes."""
        from foundry_ray.compression import TrainedStudent

        student, train, recipe = self._student(trial.params, trial.seed)
        loop = self._loop(student, train, recipe)
        own = sorted(info.key for info in self._store.list(f"{prefix}/"))
        self._restore(loop, own[-1] if own else trial.checkpoint)
        while not loop.is_done:
            loop.run_epoch()
            self._reporter.report(loop.epoch, _curve(loop)[-1])
            own.append(self._save(loop, prefix))
            while len(own) > 2:
                self._store.delete(own.pop(0))
        curve = _curve(loop)
        accuracy = {name: value for name, value in (curve[-1] if curve else trial.values).items() if name in ("accuracy", "val_loss")}
        return TrainedStudent(model=loop.eval_model(), curve=tuple(curve), val_metrics=accuracy)

    def _run(self, job: Job) -> Iterator[Event]:
        student, train, recipe = self._student(job.params, job.seed)
        if not job.known:
            prepared = self._prepare(job, student, train, recipe)
            yield prepared
            if prepared.kind == "infeasible":
                return
        started_s = self._clock.monotonic_s()
        loop = self._loop(student, train, recipe)
        self._restore(loop, job.checkpoint)
        told = _epoch_of(job.checkpoint)
        while loop.epoch < job.to_epoch:
            loop.run_epoch()
            if loop.epoch > told:  # what was told before its checkpoint was collected is not told again
                yield Event(kind="epoch", number=job.number, epoch=loop.epoch, values=_curve(loop)[-1])
        curve = _curve(loop)[told:]
        checkpoint = self._save(loop, f"{self._context.prefix}/{job.number:06d}")
        yield Event(
            kind="rung",
            number=job.number,
            rung=job.rung,
            epoch=loop.epoch,
            values={name: value for name, value in curve[-1].items() if name in ("accuracy", "val_loss", "loss")},
            curve=tuple(curve),
            checkpoint=checkpoint,
            duration_s=self._clock.monotonic_s() - started_s,
        )

    def _student(self, params: Mapping[str, Scalar], seed: int) -> tuple[nn.Module, TrainConfig, CompressionRecipe]:
        from foundry_ray import compression
        from foundry_ray.models.layers import set_dropout

        context = self._context
        hyperparams, recipe = compression.recipe_from_params(params)
        shared = context.student.model_dump(include=set(TrainConfig.model_fields))
        train = validate(TrainConfig, {**shared, **hyperparams}, where="trial")
        student = compression.apply_recipe(self._teacher, recipe, context.schema, family=context.family, seed=seed)
        if train.dropout is not None:
            set_dropout(student, train.dropout)
        return student, train, recipe

    def _prepare(self, job: Job, student: nn.Module, train: TrainConfig, recipe: CompressionRecipe) -> Event:
        from foundry_ray.compression import effective

        values: dict[str, float] = {}
        for more in self._measured(student, recipe):
            values |= more
            excess = limits.excesses(self._context.constraints, values)
            if excess:
                error = limits.explain(self._context.constraints, values)
                return Event(kind="infeasible", number=job.number, values=values, excess=sum(excess.values()), error=error)
        learning = {**train.model_dump(), "distil": to_json(recipe.step("distil")), "seed": job.seed}
        identity = canonical_sha256({"model": effective(student, recipe), "training": cast(Json, learning)})
        return Event(kind="prepared", number=job.number, values=values, effective=identity)

    def _measured(self, student: nn.Module, recipe: CompressionRecipe) -> Iterator[dict[str, float]]:
        """Cost, then bytes, then latency: cheapest first, and each only when it is asked for."""
        from foundry_ray.compression import served

        yield self._count(student)
        onnx = served(student, recipe, self._context.schema, self._context.calibration)
        yield {"size_bytes": float(len(onnx))}
        result = self._meter.measure(onnx, batch_size=self._context.batch_size)
        yield {"latency_p50_ms": result.p50_ms, "latency_p95_ms": result.p95_ms}

    def _count(self, student: nn.Module) -> dict[str, float]:
        from foundry_ray import compression

        counted = compression.cost(student, self._context.schema)
        return {"num_params": float(counted.num_params), "num_macs": float(counted.num_macs)}

    def _loop(self, student: nn.Module, train: TrainConfig, recipe: CompressionRecipe) -> Loop:
        from foundry_ray.training.engine import TorchEngine
        from foundry_ray.training.loop import FitJob, Loop, TensorSplit

        context = self._context
        job = FitJob(
            train=train,
            task=tasks.get(context.task),
            split_train=TensorSplit.of(context.train),
            split_val=TensorSplit.of(context.val),
            augment=context.augment,
            seed=context.seed,
            distil=self._distil(recipe),
            eval_transform=self._as_shipped(recipe),
        )
        engine = TorchEngine(student, train, device=self._device)
        return Loop(job, engine, reporter=self._reporter, clock=self._clock, between_steps=self._between_steps)

    def _distil(self, recipe: CompressionRecipe) -> DistilTargets | None:
        import torch

        from foundry_ray.training.loop import DistilTargets

        step = recipe.step("distil")
        if step is None:
            return None
        assert self._context.logits_VNC is not None, "a recipe distils, but the space said that none would"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            logits_VNC = torch.from_numpy(self._context.logits_VNC)
        return DistilTargets(logits_VNC=logits_VNC, alpha=float(step.params["alpha"]), temperature=float(step.params["temperature"]))

    def _as_shipped(self, recipe: CompressionRecipe) -> Callable[[nn.Module], nn.Module] | None:
        from foundry_ray.compression import simulate
        from foundry_ray.compression.recipes import quantized_bits

        if quantized_bits(recipe) == 32:
            return None
        calibration_NCHW = self._context.calibration
        return lambda model: simulate(model, calibration_NCHW)

    def _save(self, loop: Loop, prefix: str) -> str:
        """Store the whole state in one object, which is named by its hash, and return its key."""
        from foundry_ray.training.checkpoint.bytes import to_bytes

        data = to_bytes(loop.state())
        key = f"{prefix}/{loop.epoch:06d}-{hashlib.sha256(data).hexdigest()[:32]}.safetensors"
        self._store.put(key, data)
        return key

    def _restore(self, loop: Loop, key: str | None) -> None:
        """Continue from a checkpoint, where there is one. Raises ArtifactCorrupt.

        One that retention let go is made again: training is deterministic, so going through the same epochs once more costs time alone.
        """
        from foundry_ray.training.checkpoint.bytes import from_bytes

        if key is None:
            return
        try:
            data = self._store.get(key)
        except ArtifactNotFound:
            self._reporter.warn(f"{key} was collected as garbage; its trial trains again from the first epoch.")
            return
        actual, expected = hashlib.sha256(data).hexdigest()[:32], key.rpartition("-")[2].partition(".")[0]
        if actual != expected:
            stage = "search" if key.startswith("studies/") else "student"  # what is fresh deletes its own checkpoints only
            message = f"{key} has the hash {actual}, wanted {expected}."
            raise ArtifactCorrupt(message, hint=f"`--fresh {stage}` trains again.", key=key, expected=expected, actual=actual)
        loop.restored(from_bytes(data, loop.state()))


def _curve(loop: Loop) -> list[dict[str, float]]:
    """A loop's metrics, each with its epoch."""
    return [{"epoch": float(epoch), **metrics} for epoch, metrics in enumerate(loop.curve, 1)]


def _epoch_of(checkpoint: str | None) -> int:
    """How many epochs a checkpoint holds, by its name; 0 without one."""
    return int(checkpoint.rpartition("/")[2].partition("-")[0]) if checkpoint else 0
