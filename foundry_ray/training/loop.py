"""The training loop, in pure torch: no Ray, no DeepSpeed, no clock or randomness of its own.

One call of `run_epoch` trains an epoch, or the rest of one, and judges it on val. Order, augmentation, mixing and dropout are functions of
(seed, step), so weights, optimizer, average, what lies between a teacher's layers and the student's, and the step number are all that exact resume
needs. Judging happens on the averaged weights, and through `eval_transform`: on what would be shipped. Every rank runs its own Loop over the same
job; what one rank decides, all do at the next pulse. Shapes: N rows, B batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from foundry_ray.data.order import epoch_batches
from foundry_ray.errors import Diverged
from foundry_ray.protocols import ActsOnAverage, Clock, Engine, Reporter
from foundry_ray.training import stopping
from foundry_ray.training.adversarial import adversary_for
from foundry_ray.training.averaging import Averaged, average_buffers
from foundry_ray.training.feed import Batch, DistilTargets, Feed, TensorSplit
from foundry_ray.training.job import FitJob
from foundry_ray.training.judging import judge
from foundry_ray.training.losses import training_loss
from foundry_ray.training.meter import Meter
from foundry_ray.training.mixing import plan_mix
from foundry_ray.training.pulse import Pulse
from foundry_ray.training.randomness import own_randomness, reseed
from foundry_ray.training.schedules import lr_at
from foundry_ray.training.state import LoopState
from foundry_ray.training.teaching import lessons_for
from foundry_ray.types import Json

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Control", "DistilTargets", "FitJob", "Loop", "TensorSplit"]

_GPU_CHECK_EVERY = 16
_MOST_OVERFLOWS = 50


class Control(Protocol):
    """What ranks agree on while they train, about once a second."""

    def wishes(self) -> Sequence[float]:
        """What this rank wants, as many numbers on all ranks: the largest of each over the ranks counts."""

    def act(self, wishes: Sequence[float], loop: Loop) -> None:
        """Carry out what was agreed; called on all ranks with equal arguments, between two steps. What it raises ends the training."""


class _NoControl:
    """Nobody wants anything."""

    def wishes(self) -> Sequence[float]:
        return ()

    def act(self, wishes: Sequence[float], loop: Loop) -> None:
        """Nothing was wished."""


def _nothing() -> None:
    """The default of `between_steps`."""


class Loop:
    """Trains a job on an engine, epoch by epoch.

    Args:
        job: What is trained.
        engine: Owns the weights.
        reporter: Told the progress and the metrics, about once a second.
        clock: Times the epochs.
        between_steps: Called before each step; it may block (a latency measurement next door), and its time is not charged.
        control: Asked about once a second what to do besides.
        meter: Measures throughput; one that knows neither FLOPs nor tokens where absent.
    """

    def __init__(
        self,
        job: FitJob,
        engine: Engine,
        *,
        reporter: Reporter,
        clock: Clock,
        between_steps: Callable[[], None] = _nothing,
        control: Control | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.epoch = 0
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self._job = job
        self._engine = engine
        self._clock = clock
        self._between_steps = between_steps
        self._control = control or _NoControl()
        assert not job.aids or engine.world_size == 1, "aids write to whole tensors, which an engine of many ranks shares out"
        for aid in job.aids:
            aid.attach(engine.model)
        self._feed = _feed(job, engine.device)
        self._adversary = adversary_for(job, engine)
        self._average = Averaged(engine, job.train.ema_decay) if job.train.ema_decay > 0 else None
        self._lessons = lessons_for(job.distil, engine, self._average, train=job.train, sample=self._feed.sample, seed=job.seed)
        self._steps_per_epoch = job.split_train.num_rows // job.train.batch_size
        self._sums = torch.zeros(2, dtype=torch.float64)  # of this epoch's losses, and how many they are
        meter = meter or Meter(clock=clock, device=engine.device, world_size=engine.world_size)
        sizes = {"num_steps": self.num_steps, "batch_size": job.train.batch_size}
        self._pulse = Pulse(engine, reporter=reporter, clock=clock, meter=meter, **sizes)
        self._num_overflows = 0
        self._grad_norm = math.nan  # of the last step of another process, where this one resumes at the end of an epoch

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole training, if nothing stops it early."""
        return self._steps_per_epoch * self._job.train.epochs

    @property
    def is_done(self) -> bool:
        """Whether the last epoch is over, or early stopping has had enough of the epochs in which aids have nothing to add."""
        job = self._job
        unsettled = math.ceil(max((aid.settled_at for aid in job.aids), default=0.0) * job.train.epochs)
        return self.epoch >= job.train.epochs or stopping.is_over(self.curve[unsettled:], job.task.primary_metric, job.train)

    def run_epoch(self) -> dict[str, float]:
        """Train to the end of the epoch and judge it on val.

        Returns:
            `loss`, `val_loss`, the task's primary metric, `lr` and `grad_norm` (where the engine knows it) of the last step, `samples_per_s`
            over all ranks, `epoch_s`. All are finite.

        Raises:
            Diverged: A loss is not finite. What was saved before stays good.
            OutOfRange: The batch is larger than the training split, or does not divide by the ranks.
        """
        started_s, first_step, num_plateaus = self._clock.monotonic_s(), self.step, self._num_plateaus()
        with own_randomness(self._engine.device):
            waited_s = self._train_epoch(num_plateaus)
        trained_s = self._clock.monotonic_s() - started_s - waited_s
        loss = self._mean_loss()
        self._engine.sync_buffers()
        if self._average is not None:
            average_buffers(self._average.buffers, self._engine)
        judged = self.judge()
        elapsed_s = self._clock.monotonic_s() - started_s - waited_s
        self.epoch += 1
        self._sums.zero_()
        num_samples = (self.step - first_step) * self._job.train.batch_size
        self._grad_norm = self._engine.grad_norm if self.step > first_step else self._grad_norm
        metrics = {
            "loss": loss,
            **judged,
            "lr": lr_at(self.step - 1, self.num_steps, self._job.train, num_plateaus=num_plateaus),
            **({"grad_norm": self._grad_norm} if math.isfinite(self._grad_norm) else {}),
            "samples_per_s": num_samples / max(trained_s, 1e-9),
            "epoch_s": elapsed_s,
        }
        self.curve.append(metrics)
        return metrics

    def eval_model(self) -> nn.Module:
        """A copy of what is judged and shipped: the averaged weights where averaging is on, in eval mode. For an engine of one rank."""
        assert self._engine.world_size == 1, "an engine of many ranks shares its weights out: assemble them from a checkpoint"
        model = copy.deepcopy(self._engine.model)
        if self._average is not None:
            self._average.copy_to(model)
        return model.requires_grad_(False).eval()

    def state(self) -> LoopState:
        """All that exact resume needs; the tensors are live. All ranks call it. Raises Diverged where a weight is no number."""
        engine, average = self._engine, self._average
        fragments = tuple(engine.fragments())
        self._check_weights([fragment.tensor for fragment in fragments if fragment.slot == "weights"])
        own = {f"buffers/{name}": buffer for name, buffer in engine.model.named_buffers()}
        own |= {f"average_buffers/{name}": buffer for name, buffer in average.buffers.items()} if average else {}
        document: dict[str, Json] = {
            "epoch": self.epoch,
            "step": self.step,
            "curve": [dict(metrics) for metrics in self.curve],
            "engine": dict(engine.scalars()),
            "grad_norm": engine.grad_norm if math.isfinite(engine.grad_norm) else None,
        }
        own |= {f"lessons/{name}": tensor for name, tensor in self._lessons.tensors().items()} if self._lessons else {}
        return LoopState(document=document, fragments=(*fragments, *(average.fragments if average else ())), own={**own, "sums": self._sums})

    def restored(self, document: Mapping[str, Json]) -> None:
        """Go on from a state whose tensors were written into those of `state()`; the same job gives the same bits as if it had never stopped."""
        self.epoch, self.step = cast(int, document["epoch"]), cast(int, document["step"])
        self.curve = [dict(metrics) for metrics in cast("list[dict[str, float]]", document["curve"])]
        norm = document.get("grad_norm")
        self._grad_norm = norm if isinstance(norm, float) else math.nan
        self._engine.load_scalars(cast("dict[str, float]", document["engine"]))
        self._engine.refresh()
        if self._lessons is not None:
            self._lessons.restored(int(self._engine.scalars()["num_steps"]))
        self._pulse.restart(self.step)

    def _num_plateaus(self) -> int:
        return stopping.num_plateaus(self.curve, self._job.task.primary_metric, self._job.train)

    def _train_epoch(self, num_plateaus: int) -> float:
        """Take the steps that are left of the epoch; returns the seconds spent in `between_steps`."""
        engine, job = self._engine, self._job
        first = self.step - self.epoch * self._steps_per_epoch
        losses = _Losses(self._sums, self.step, check_every=_GPU_CHECK_EVERY if engine.device.startswith("cuda") else 1)
        waited_s = 0.0
        engine.model.train()
        self._pulse.restart(self.step, self._sums.tolist())
        for batch_B in self._batches()[first:]:
            waited_s += self._pause()
            lr = lr_at(self.step, self.num_steps, job.train, num_plateaus=num_plateaus)
            for aid in job.aids:
                aid.before_step(self.step / self.num_steps)
            loss = self._step(batch_B, lr)
            if loss is not None:
                losses.add(loss)
            self.step += 1
            if self._pulse.is_due(self.step):
                losses.check()
                self._beat(lr, waited_s)
        losses.check()
        return waited_s

    def _batches(self) -> Sequence[np.ndarray]:
        """The global batches of this epoch, the same on all ranks."""
        job, engine = self._job, self._engine
        num_rows, batch_size = job.split_train.num_rows, job.train.batch_size
        epoch_batches(num_rows, batch_size=batch_size, seed=job.seed, epoch=self.epoch, rank=engine.rank, world_size=engine.world_size)
        return epoch_batches(num_rows, batch_size=batch_size, seed=job.seed, epoch=self.epoch, rank=0, world_size=1)

    def _step(self, batch_B: np.ndarray, lr: float) -> Tensor | None:
        """One optimizer step on this rank's share of a batch; returns its mean loss, or None where fp16 overflowed."""
        engine, job = self._engine, self._job
        share = len(batch_B) // engine.world_size
        micro = min(job.micro_batch_size or share, share)
        mix = plan_mix(job.train, seed=job.seed, step=self.step)
        total: Tensor | None = None
        for index, start in enumerate(range(engine.rank * share, (engine.rank + 1) * share, micro)):
            reseed(engine.device, job.seed, self.step, index, engine.rank)
            rows_B = batch_B[start : start + micro]
            partners_B = batch_B.take(range(start + mix.shift, start + mix.shift + micro), mode="wrap") if mix else None
            batch = self._feed.batch(rows_B, self.epoch, partners_B=partners_B, mix=mix)
            loss = self._loss(self._adversary.changed(batch, start) if self._adversary else batch)
            engine.backward(loss)
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None, "a share has rows"
        scalars = engine.scalars() if self._lessons else {}
        if not engine.step(lr):
            self._skipped(float(total) * micro / share)
            return None
        self._num_overflows = 0
        if self._lessons is not None:
            self._lessons.step(lr, scalars=scalars)
        self._settle()
        return total * (micro / share)

    def _settle(self) -> None:
        """The weights were changed: what follows from that."""
        for aid in self._job.aids:
            aid.after_step((self.step + 1) / self.num_steps)
        if self._average is None:
            return
        self._average.update(self.step)
        for aid in self._job.aids:
            if isinstance(aid, ActsOnAverage):
                aid.after_average(self._average.tensors)

    def _loss(self, batch: Batch) -> Tensor:
        job, distance = self._job, None
        if self._lessons is not None:
            outputs, batch, distance = self._lessons.forward(batch)
        else:
            outputs = self._engine.forward(batch.inputs)
        loss = training_loss(job.task, outputs, batch, label_smoothing=job.train.label_smoothing, distil=job.distil)
        return loss if distance is None else loss + distance

    def _skipped(self, loss: float) -> None:
        """All ranks skipped the step: a gradient is no number. That is fp16's to mend, by a smaller loss scale, unless a loss is none either."""
        if self._lessons is not None:
            self._lessons.skip()
        mean = self._engine.reduce([loss])[0] / self._engine.world_size
        if not math.isfinite(mean):
            raise _diverged("loss at", self.step, mean)
        self._num_overflows += 1
        if "loss_scale" not in self._engine.scalars() or self._num_overflows > _MOST_OVERFLOWS:
            raise _diverged(f"gradient is no number; its norm at (loss {mean:g})", self.step, self._engine.grad_norm)

    def _pause(self) -> float:
        started_s = self._clock.monotonic_s()
        self._between_steps()
        return self._clock.monotonic_s() - started_s

    def _beat(self, lr: float, waited_s: float) -> None:
        """Tell how it goes, agree with the other ranks, and do what was agreed."""
        note = f"epoch {self.epoch + 1}/{self._job.train.epochs}"
        wishes = self._control.wishes()
        self._control.act(self._pulse.beat(self.step, self._sums.tolist(), lr=lr, note=note, paused_s=waited_s, wishes=wishes), self)

    def _mean_loss(self) -> float:
        total, count = self._engine.reduce(self._sums.tolist())
        return total / max(count, 1.0)

    def _check_weights(self, weights: Sequence[Tensor]) -> None:
        """A gradient that is no number spoils the weights a step before the loss shows it: such weights must not become a checkpoint."""
        is_bad = bool(weights) and not all(bool(norm.isfinite()) for norm in torch._foreach_norm(list(weights)))
        if self._engine.reduce([float(is_bad)], mode="max")[0]:
            raise _diverged("weights before", self.step, math.nan)

    def judge(self) -> dict[str, float]:
        """`val_loss` and the task's primary metric of what would be shipped now. All ranks call it. Raises Diverged."""
        job, engine = self._job, self._engine
        if job.eval_transform is not None:
            shipped = job.eval_transform(self.eval_model()).eval()
            judged = judge(lambda inputs: _infer(shipped, inputs), job.task, job.split_val, engine, micro_batch_size=job.micro_batch_size)
        elif self._average is not None:
            with self._average.in_place():
                judged = judge(engine.evaluate, job.task, job.split_val, engine, micro_batch_size=job.micro_batch_size)
        else:
            judged = judge(engine.evaluate, job.task, job.split_val, engine, micro_batch_size=job.micro_batch_size)
        if not math.isfinite(judged["val_loss"]):
            raise _diverged("validation loss after", self.step, judged["val_loss"])
        return judged


class _Losses:
    """Adds losses up and raises Diverged at the first that is not finite, looking at `check_every` of them at once (one GPU sync)."""

    def __init__(self, sums: Tensor, first_step: int, *, check_every: int) -> None:
        self._sums = sums
        self._step = first_step
        self._check_every = check_every
        self._pending: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        self._pending.append(loss)
        if len(self._pending) == self._check_every:
            self.check()

    def check(self) -> None:
        """Look at all that were added."""
        for value in torch.stack(self._pending).tolist() if self._pending else ():
            if not math.isfinite(value):
                raise _diverged("loss at", self._step, value)
            self._sums += torch.tensor([value, 1.0], dtype=torch.float64)
            self._step += 1
        self._pending.clear()


def _feed(job: FitJob, device: str) -> Feed:
    distil = job.distil
    cached = distil if isinstance(distil, DistilTargets) else None
    uses_labels = distil is None or distil.uses_labels
    return Feed(job.split_train, ops=job.augment, seed=job.seed, distil=cached, device=device, is_taught=distil is not None, uses_labels=uses_labels)


@torch.inference_mode()
def _infer(model: nn.Module, inputs: Tensor) -> Tensor:
    return cast(Tensor, model(inputs)).float()


def _diverged(what: str, step: int, loss: float) -> Diverged:
    message = f"the {what} step {step} is {loss}, wanted a finite number."
    return Diverged(message, hint="lower `train.lr` or `train.grad_clip`; the last checkpoint is intact.", step=step, loss=loss)
