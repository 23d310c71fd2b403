"""Teachers that are at hand while the student trains: other models that answer in the step, or the student's own average.

Decides: who answers, on which layers student and teacher are compared, how the regressors between them are trained. Leaves to `losses` what a
distance is, and to `feed` the logits that were cached. A regressor exists here alone: it is never part of the student, of its average or of what
is shipped. Its weights and its optimizer's state are in the loop's checkpoint, its first weights are drawn from the seed, and it steps whenever the
student does; so a resumed training gives the same bits. One process trains: nothing here is shared among ranks. Shapes: as in `losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from foundry_ray.config import TrainConfig
from foundry_ray.data.hashing import mix
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.models.modes import evaluating
from foundry_ray.training.convolutions import avoid_unsound_kernel
from foundry_ray.training.feed import Batch, DistilTargets
from foundry_ray.training.job import Distil, OnlineTeacher, OwnAverage
from foundry_ray.training.losses import attention_distance, hint_distance
from foundry_ray.training.optimizers import update_rule
from foundry_ray.training.precision import autocast, channels_last, resolve_precision
from foundry_ray.training.taps import Pair, matched, recording

if TYPE_CHECKING:
    from foundry_ray.protocols import Engine
    from foundry_ray.training.averaging import Averaged

_STREAM = 0x72656772
_SCALE = "loss_scale"


class Lessons:
    """What the teachers at hand add to a step.

    Args:
        distil: Who they are.
        engine: Of the student, in one process.
        average: The student's own.
        train: How the regressors are trained: as the student is.
        sample: A few inputs as the student takes them, to see what comes out of which layer, and how large it is.
        seed: Of the regressors' first weights.

    Raises:
        RecipeInfeasible: The average is wanted and there is none; or no layers of student and teacher can be compared.
    """

    def __init__(
        self, distil: OnlineTeacher | OwnAverage, engine: Engine, average: Averaged | None, *, train: TrainConfig, sample: Tensor, seed: int
    ) -> None:
        assert engine.world_size == 1, "teachers at hand are of one process"
        self._engine = engine
        self._dtype = resolve_precision(train.precision, engine.device)
        self._transfer = distil.transfer if isinstance(distil, OnlineTeacher) else None
        self._beta = distil.beta if isinstance(distil, OnlineTeacher) else 0.0
        self._teachers = [_ready(model, engine.device) for model in distil.models] if isinstance(distil, OnlineTeacher) else []
        self._average = _average(average) if isinstance(distil, OwnAverage) else None
        self._pairs = self._matched(sample) if self._transfer else ()
        self._sizes = self._mean_squares(sample) if self._transfer == "features" else []
        widths = [(pair.student_width, pair.teacher_width, len(pair.grid)) for pair in self._pairs] if self._transfer == "features" else []
        self._regressors = _regressors(widths, seed).to(engine.device)
        self._max_norm = train.grad_clip or float("inf")
        self._rule = update_rule(self._regressors, train) if widths else None

    def forward(self, batch: Batch) -> tuple[Tensor, Batch, Tensor | None]:
        """The student's outputs in fp32, the batch with the teachers' answers, and the weighted distance of the layers where those are compared."""
        with ExitStack() as stack:
            mine = stack.enter_context(recording(self._engine.model, [pair.student for pair in self._pairs])) if self._pairs else {}
            outputs = self._engine.forward(batch.inputs)
        with torch.no_grad(), ExitStack() as stack:
            theirs = stack.enter_context(recording(self._teachers[0], [pair.teacher for pair in self._pairs])) if self._pairs else {}
            taught = replace(batch, targets_BC=self._answers(batch.inputs))
        if not self._pairs:
            return outputs, taught, None
        distances = [self._distance(index, mine[pair.student], theirs[pair.teacher]) for index, pair in enumerate(self._pairs)]
        return outputs, taught, self._beta * torch.stack(distances).sum()

    def step(self, lr: float, *, scalars: Mapping[str, float]) -> None:
        """Train the regressors by the gradient that the student's backward pass has left in them.

        Args:
            lr: As the student's.
            scalars: The engine's as they were in that pass: fp16 has scaled the gradient.
        """
        params = list(self._regressors.parameters())
        if self._rule is None:
            return
        if _SCALE in scalars:
            torch._foreach_mul_([param.grad for param in params if param.grad is not None], 1 / scalars[_SCALE])
        norm = nn.utils.clip_grad_norm_(params, self._max_norm)
        if _SCALE in scalars and not norm.isfinite():  # theirs overflowed, and the student's did not: they step with it, by nothing
            torch._foreach_zero_([param.grad for param in params if param.grad is not None])
        self._rule.step(lr)
        self.skip()

    def skip(self) -> None:
        """Forget the gradient: fp16 overflowed."""
        for param in self._regressors.parameters():
            param.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """All that exact resume needs, live: the regressors and their optimizer's state."""
        weights = {f"weights/{name}": param.detach() for name, param in self._regressors.named_parameters()}
        slots = self._rule.slots() if self._rule else {}
        return weights | {f"{slot}/{name}": tensor for slot, tensors in slots.items() for name, tensor in tensors.items()}

    def restored(self, num_steps: int) -> None:
        """What `tensors` gives was written to; so many steps had been taken."""
        if self._rule is not None:
            self._rule.load_num_steps(num_steps)

    def _answers(self, inputs: Tensor) -> Tensor:
        """Logits in fp32, (B, C), or (B, K, C) of K teachers."""
        ask: Sequence[Callable[[Tensor], Tensor]] = [self._average] if self._average else self._teachers
        with autocast(self._engine.device, self._dtype):
            answers = [one(channels_last(inputs)).float() for one in ask]
        return answers[0] if len(answers) == 1 else torch.stack(answers, dim=1)

    def _distance(self, index: int, mine: Tensor, theirs: Tensor) -> Tensor:
        if self._transfer == "attention":
            return attention_distance(mine, theirs)
        return hint_distance(cast(Tensor, self._regressors[index](mine.float())), theirs) / self._sizes[index]

    def _mean_squares(self, sample: Tensor) -> list[float]:
        """Of each of the teacher's layers: distances are measured in them, so that beta weighs the same whatever a layer's numbers are."""
        with (
            torch.no_grad(),
            autocast(self._engine.device, self._dtype),
            recording(self._teachers[0], [pair.teacher for pair in self._pairs]) as found,
        ):
            self._teachers[0](channels_last(sample))
        return [float(found[pair.teacher].float().square().mean()) or 1.0 for pair in self._pairs]

    def _matched(self, sample: Tensor) -> tuple[Pair, ...]:
        """The pairs of layers. Raises RecipeInfeasible."""
        engine = self._engine
        with autocast(engine.device, self._dtype), evaluating(engine.model):
            pairs = matched(engine.model, self._teachers[0], run=lambda model: model(channels_last(sample)))
        if self._transfer == "attention" and not all(pair.grid for pair in pairs):
            message = "recipe step distil: the layers have neither pixels nor places, so there is no attention to transfer."
            raise RecipeInfeasible(message, hint="set `distil.kind: features`.", recipe="distil", reason="no maps")
        return pairs


def lessons_for(
    distil: Distil | None, engine: Engine, average: Averaged | None, *, train: TrainConfig, sample: Callable[[], Tensor], seed: int
) -> Lessons | None:
    """None where nobody teaches, or the answers were cached. Raises RecipeInfeasible as `Lessons` does."""
    if distil is None or isinstance(distil, DistilTargets):
        return None
    return Lessons(distil, engine, average, train=train, sample=sample(), seed=seed)


def _ready(teacher: nn.Module, device: str) -> nn.Module:
    teacher = teacher.to(device).eval().requires_grad_(False)
    avoid_unsound_kernel(teacher, device)
    return teacher


def _average(average: Averaged | None) -> Callable[[Tensor], Tensor]:
    if average is None:
        message = "recipe step distil: the student's average is its teacher, and `ema_decay` is 0, wanted more."
        raise RecipeInfeasible(message, hint="set `student.ema_decay`.", recipe="distil", reason="no average")
    return average.evaluate


def _regressors(widths: Sequence[tuple[int, int, int]], seed: int) -> nn.ModuleList:
    """One linear map per pair, over the channels of each pixel or the features of each place."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mix(seed, _STREAM) >> 1)
        return nn.ModuleList(nn.Conv2d(mine, theirs, 1) if ndim == 2 else nn.Linear(mine, theirs) for mine, theirs, ndim in widths)
