"""Adversarial training: some rows of each batch are changed against the weights of the moment, and learnt from with their own labels.

FGSM (arXiv 1412.6572): x + epsilon * sign of the loss's gradient. PGD (arXiv 1706.06083): several smaller such steps from a random beginning, each
brought back to within epsilon of x. Both in the maximum norm, on raw pixels. The model is in eval mode meanwhile, so that batch-norm statistics
see the images that are trained on and dropout draws what it would. What is drawn is a function of (seed, step, micro-batch, rank), which rows are
changed one of the place in the global batch: kill and resume give the same bits. Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from foundry_ray.config import AdversarialConfig
from foundry_ray.models.modes import evaluating
from foundry_ray.protocols import Engine
from foundry_ray.training.checks import check_adversarial
from foundry_ray.training.feed import Batch, Labelled
from foundry_ray.training.losses import training_loss
from foundry_ray.training.precision import autocast, channels_last, resolve_precision

if TYPE_CHECKING:
    from foundry_ray.training.job import FitJob

_WHITE = 255.0
_FP16_SCALE = 1024.0  # a gradient below 6e-8 has no sign in half precision; one that overflows keeps its own
_STEP_RATIO = 2.5  # of epsilon over the number of steps, as in the experiments of arXiv 1706.06083


class Adversary:
    """Changes the rows of micro-batches. Runs the whole model on this rank, so not where ranks share the weights out (ZeRO 3)."""

    def __init__(self, job: FitJob, engine: Engine, config: AdversarialConfig) -> None:
        self._job = job
        self._engine = engine
        self._config = config
        self._dtype = resolve_precision(job.train.precision, engine.device)
        self._is_recurrent = any(isinstance(module, nn.RNNBase) for module in engine.model.modules())

    def changed(self, batch: Batch, first_place: int) -> Batch:
        """The micro-batch that begins at this place of the global batch, with its share of rows changed; the given one stays as it is.

        Rows without a label are changed where the teacher's answers are cached: else nothing says what would mislead.
        """
        rows = [row for row in _told(batch) if self._is_chosen(first_place + row)]
        if not rows:
            return batch
        rows_R = torch.tensor(rows, device=batch.inputs.device)
        with evaluating(self._engine.model), self._differentiable():
            found = self._found(_taken(batch, rows_R))
        return replace(batch, inputs=batch.inputs.index_copy(0, rows_R, found))

    def _differentiable(self) -> AbstractContextManager[None]:
        """cuDNN's recurrent layers have no gradient in eval mode; torch's own have."""
        return torch.backends.cudnn.flags(enabled=False) if self._is_recurrent else nullcontext()

    def _is_chosen(self, place: int) -> bool:
        """Evenly spaced over the batch, which is in random order."""
        share = self._config.share
        return int((place + 1) * share + 1e-9) > int(place * share + 1e-9)

    def _found(self, batch: Batch) -> Tensor:
        epsilon, clean = self._config.epsilon, batch.inputs
        if self._config.kind == "fgsm":
            return (clean + epsilon * self._direction(batch, clean)).clamp(0, _WHITE)
        low, high = (clean - epsilon).clamp(min=0), (clean + epsilon).clamp(max=_WHITE)
        pace = _STEP_RATIO * epsilon / self._config.steps
        inputs = low + (high - low) * torch.rand_like(clean)
        for _ in range(self._config.steps):
            inputs = torch.minimum(torch.maximum(inputs + pace * self._direction(batch, inputs), low), high)
        return inputs

    @torch.enable_grad()
    def _direction(self, batch: Batch, inputs: Tensor) -> Tensor:
        """Sign of the gradient of the training's own loss; no weight gets a gradient."""
        inputs = inputs.detach().requires_grad_()
        with autocast(self._engine.device, self._dtype):
            outputs = self._engine.model(channels_last(inputs)).float()
        loss = training_loss(self._job.task, outputs, batch, label_smoothing=0.0, distil=self._job.distil)
        scale = _FP16_SCALE if self._dtype is torch.float16 else 1.0
        [gradient] = torch.autograd.grad(loss * len(inputs) * scale, [inputs])
        return gradient.sign().nan_to_num(0)


def adversary_for(job: FitJob, engine: Engine) -> Adversary | None:
    """Who changes inputs in this training; None where nobody is asked to.

    Raises:
        ConfigError: Inputs are token ids, or the weights are in pieces.
    """
    if job.train.adversarial is None:
        return None
    is_whole = not any(hasattr(param, "ds_shape") for param in engine.model.parameters())
    check_adversarial(job.train.adversarial, has_images=job.split_train.has_images, is_whole=is_whole)
    return Adversary(job, engine, job.train.adversarial)


def _told(batch: Batch) -> Sequence[int]:
    """The rows of which something says what would mislead: a cached answer, a label, or that of what was mixed in."""
    if batch.targets_BC is not None or batch.labelled is None:
        return range(len(batch.inputs))
    found = [batch.labelled, *([batch.partner_labelled] if batch.partner_labelled else [])]
    return sorted({place for one in found for place in one.places.tolist()})


def _taken(batch: Batch, rows_R: Tensor) -> Batch:
    """Some rows of a batch."""

    def of(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows_R]

    return replace(
        batch,
        inputs=batch.inputs[rows_R],
        labels_B=batch.labels_B[rows_R],
        labelled=_labelled(batch.labelled, rows_R, len(batch.inputs)),
        targets_BC=of(batch.targets_BC),
        partner_labels_B=of(batch.partner_labels_B),
        partner_labelled=_labelled(batch.partner_labelled, rows_R, len(batch.inputs)),
    )


def _labelled(labelled: Labelled | None, rows_R: Tensor, num_rows: int) -> Labelled | None:
    if labelled is None:
        return None
    is_labelled_B = torch.zeros(num_rows, dtype=torch.bool, device=rows_R.device).index_fill(0, labelled.places.to(rows_R.device), True)
    return replace(labelled, places=is_labelled_B[rows_R].nonzero().flatten())
