"""The training loop, in pure torch: no Ray, no DeepSpeed, no clock or randomness of its own.

One call of `run_epoch` trains an epoch and judges it on val. Order, augmentation and dropout are functions of (seed, epoch), so
weights, optimizer, average and the epoch number are all that exact resume needs. Judging happens in fp32 on the averaged weights,
through `eval_transform`: on what would be shipped. Shapes: N rows, B batch, C channels or classes, H height, W width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

from foundry_ray.config import TrainConfig
from foundry_ray.data.hashing import mix
from foundry_ray.data.order import epoch_batches
from foundry_ray.errors import Diverged
from foundry_ray.protocols import Clock, Engine, Reporter, Task
from foundry_ray.training.averaging import Averaged, average_buffers
from foundry_ray.training.engine import EngineState, InProcessEngine
from foundry_ray.training.feed import Batch, DistilTargets, Feed, TensorSplit
from foundry_ray.training.losses import training_loss
from foundry_ray.training.precision import channels_last
from foundry_ray.training.schedules import lr_at

__all__ = ["DistilTargets", "FitJob", "Loop", "LoopState", "TensorSplit"]

_FILE = "loop.pt"
_EVAL_ROWS = 512
_PROGRESS_EVERY_S = 0.5
_GPU_CHECK_EVERY = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    """What is trained on what. `eval_transform` makes of a copy of the model what would be shipped (int8 simulated, say)."""

    train: TrainConfig
    task: Task
    split_train: TensorSplit
    split_val: TensorSplit
    augment: tuple[str, ...] = ()
    seed: int = 0
    distil: DistilTargets | None = None
    eval_transform: Callable[[nn.Module], nn.Module] | None = None


class LoopState(TypedDict):
    """Everything that exact resume needs. The tensors are live: save or copy them before the next step."""

    epoch: int
    average: dict[str, Tensor]
    engine: EngineState


def _nothing() -> None:
    """The default of `between_steps`."""


class Loop:
    """Trains a job on an engine, epoch by epoch.

    Args:
        job: What is trained.
        engine: Owns the weights; every rank runs its own Loop over the same job.
        reporter: Told the progress, at most twice a second.
        clock: Times the epochs.
        between_steps: Called before each step; it may block (a latency measurement next door), and its time is not charged.
    """

    def __init__(self, job: FitJob, engine: Engine, *, reporter: Reporter, clock: Clock, between_steps: Callable[[], None] = _nothing) -> None:
        self.epoch = 0
        self._job = job
        self._engine = engine
        self._reporter = reporter
        self._clock = clock
        self._between_steps = between_steps
        self._feed = Feed(job.split_train, ops=job.augment, seed=job.seed, distil=job.distil, device=engine.device)
        decay = job.train.ema_decay
        self._average = Averaged(engine.snapshot(), decay) if decay > 0 else None
        self._steps_per_epoch = job.split_train.num_rows // job.train.batch_size
        self._next_progress_s = -math.inf

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self._steps_per_epoch * self._job.train.epochs

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch and judge it on val.

        Returns:
            `loss`, `val_loss`, the task's primary metric, `lr` and `grad_norm` (where the engine knows it) of the last step, `samples_per_s`
            over all ranks, `epoch_s`. All are finite.

        Raises:
            Diverged: A loss is not finite. What was saved before stays good.
            OutOfRange: The batch is larger than the training split, or does not divide by the ranks.
        """
        started_s = self._clock.monotonic_s()
        with self._own_randomness():
            loss, waited_s = self._train_epoch()
        trained_s = self._clock.monotonic_s() - started_s - waited_s
        self._engine.sync_buffers()
        self._sync_average()
        judged = self._judge()
        self.epoch += 1
        elapsed_s = self._clock.monotonic_s() - started_s - waited_s
        num_samples = self._steps_per_epoch * self._job.train.batch_size
        lr = lr_at(self.epoch * self._steps_per_epoch - 1, self.num_steps, self._job.train)
        rates = {"samples_per_s": num_samples / max(trained_s, 1e-9), "epoch_s": elapsed_s}
        norm = self._engine.grad_norm
        return {"loss": loss, **judged, "lr": lr, **({"grad_norm": norm} if math.isfinite(norm) else {}), **rates}

    def eval_model(self) -> nn.Module:
        """A copy of what is judged and shipped: the averaged weights where averaging is on, in eval mode."""
        model = self._engine.snapshot() if self._average is None else copy.deepcopy(self._average.model)
        return model.requires_grad_(False).eval()

    def state(self) -> LoopState:
        """The state as live tensors, for an engine that lives in one process."""
        assert isinstance(self._engine, InProcessEngine), "an engine of many ranks is saved into a directory: use `save`"
        average = self._average.model.state_dict() if self._average else {}
        return {"epoch": self.epoch, "average": average, "engine": self._engine.state()}

    def load_state(self, state: LoopState) -> None:
        """Continue from a state; the same job gives the same bits as if it had never stopped."""
        assert isinstance(self._engine, InProcessEngine), "an engine of many ranks is restored from a directory: use `load`"
        self._engine.load_state(state["engine"])
        self._resume(state["epoch"], state["average"])

    def save(self, directory: Path) -> None:
        """Write this rank's part of a checkpoint into a directory of its own. All ranks call it."""
        self._engine.save(directory)
        if self._engine.rank == 0:
            average = self._average.model.state_dict() if self._average else {}
            torch.save({"epoch": self.epoch, "average": average}, directory / _FILE)

    def load(self, directory: Path) -> None:
        """Restore from the parts of all ranks, merged into one directory. All ranks call it."""
        self._engine.load(directory)
        saved = torch.load(directory / _FILE, map_location=self._engine.device, weights_only=True)
        self._resume(saved["epoch"], saved["average"])

    def _resume(self, epoch: int, average: dict[str, Tensor]) -> None:
        self.epoch = epoch
        if self._average is not None:
            self._average.model.load_state_dict(average)

    def _train_epoch(self) -> tuple[float, float]:
        """Mean loss over all ranks, and the seconds spent in `between_steps`."""
        engine, train = self._engine, self._job.train
        batches = epoch_batches(
            self._job.split_train.num_rows,
            batch_size=train.batch_size,
            seed=self._job.seed,
            epoch=self.epoch,
            rank=engine.rank,
            world_size=engine.world_size,
        )
        losses = _Losses(self.epoch * self._steps_per_epoch, check_every=_GPU_CHECK_EVERY if engine.device.startswith("cuda") else 1)
        waited_s = 0.0
        for index, rows_B in enumerate(batches):
            waited_s += self._pause()
            step = self.epoch * self._steps_per_epoch + index
            batch = self._feed.batch(rows_B, self.epoch)
            loss = self._step(batch, step)
            losses.add(loss)
            self._tell(step + 1)
        total, count = engine.reduce_sum([losses.total(), float(len(batches))])
        return total / count, waited_s

    def _step(self, batch: Batch, step: int) -> Tensor:
        engine, job = self._engine, self._job
        engine.set_lr(lr_at(step, self.num_steps, job.train))
        logits_BC = engine.forward(batch.images_BCHW)
        loss = training_loss(job.task, logits_BC, batch, label_smoothing=job.train.label_smoothing, distil=job.distil)
        engine.step(loss)
        if self._average is not None:
            self._average.update(engine.model, step)
        return loss.detach()

    def _pause(self) -> float:
        started_s = self._clock.monotonic_s()
        self._between_steps()
        return self._clock.monotonic_s() - started_s

    def _tell(self, step: int) -> None:
        now_s = self._clock.monotonic_s()
        if now_s >= self._next_progress_s:
            self._next_progress_s = now_s + _PROGRESS_EVERY_S
            self._reporter.progress(step, self.num_steps, f"epoch {self.epoch + 1}/{self._job.train.epochs}")

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Dropout and the like draw from a stream of (seed, epoch, rank); the process's own stream stays as it was."""
        devices = [torch.device(self._engine.device)] if self._engine.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(mix(self._job.seed, self.epoch, self._engine.rank) >> 1)
            self._engine.model.train()
            yield

    def _sync_average(self) -> None:
        """Average the averaged buffers over the ranks; the averaged parameters are equal everywhere already."""
        if self._average is not None and self._engine.world_size > 1:
            average_buffers(self._average.model, self._engine)

    def _judge(self) -> dict[str, float]:
        """Each rank judges the rows rank, rank + world_size, ... of val; sums make the means."""
        transform = self._job.eval_transform
        model = self.eval_model()
        model = transform(model).eval() if transform else model
        rows_N = torch.arange(self._engine.rank, self._job.split_val.num_rows, self._engine.world_size)
        sums = [0.0, 0.0]
        for rows_B in torch.split(rows_N, _EVAL_ROWS):
            sums = [a + b for a, b in zip(sums, self._judge_batch(model, rows_B), strict=True)]
        loss, score, count = self._engine.reduce_sum([*sums, float(len(rows_N))])
        if not math.isfinite(loss):
            raise _diverged("validation loss after", (self.epoch + 1) * self._steps_per_epoch, loss)
        return {"val_loss": loss / count, self._job.task.primary_metric: score / count}

    @torch.inference_mode()
    def _judge_batch(self, model: nn.Module, rows_B: Tensor) -> tuple[float, float]:
        """Sums over a batch: loss, and the score whose mean is the primary metric."""
        split, task = self._job.split_val, self._job.task
        images_BCHW = channels_last(split.images_NCHW[rows_B].to(self._engine.device).float())
        logits_BC, labels_B = model(images_BCHW).float().cpu(), split.labels_N[rows_B]
        score = float(task.correct(logits_BC.numpy(), labels_B.numpy()).sum())
        return float(task.loss(logits_BC, labels_B)) * len(rows_B), score


class _Losses:
    """Collects losses and raises Diverged at the first that is not finite, looking at `check_every` of them at once (one GPU sync)."""

    def __init__(self, first_step: int, *, check_every: int) -> None:
        self._step = first_step
        self._check_every = check_every
        self._pending: list[Tensor] = []
        self._total = 0.0

    def add(self, loss: Tensor) -> None:
        self._pending.append(loss)
        if len(self._pending) == self._check_every:
            self._check()

    def total(self) -> float:
        """The sum of all losses."""
        if self._pending:
            self._check()
        return self._total

    def _check(self) -> None:
        for value in torch.stack(self._pending).tolist():
            if not math.isfinite(value):
                raise _diverged("loss at", self._step, value)
            self._total += value
            self._step += 1
        self._pending.clear()


def _diverged(what: str, step: int, loss: float) -> Diverged:
    message = f"the {what} step {step} is {loss}, wanted a finite number."
    return Diverged(message, hint="lower `train.lr` or `train.grad_clip`; the last checkpoint is intact.", step=step, loss=loss)
