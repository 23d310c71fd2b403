"""What a step minimises: the task's loss, mixed labels, the teacher's answers, and penalties on the weights.

The penalties l1 * sum |w| + l2 / 2 * sum w^2 never enter the loss tensor: their gradient is added to the clipped gradient of the loss, one
weight at a time, in the optimizer. So it is the same for whole and for sharded weights (ZeRO 3), needs no backward pass, and leaves the
reported loss that of the task. Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from foundry_ray.protocols import Task

if TYPE_CHECKING:
    from foundry_ray.training.feed import Batch, DistilTargets


def distillation(logits_BC: Tensor, targets_BC: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch (Hinton et al., arXiv 1503.02531, section 2)."""
    student_BC = functional.log_softmax(logits_BC / temperature, dim=1)
    teacher_BC = functional.log_softmax(targets_BC / temperature, dim=1)
    return functional.kl_div(student_BC, teacher_BC, reduction="batchmean", log_target=True) * temperature**2


def training_loss(task: Task, logits_BC: Tensor, batch: Batch, *, label_smoothing: float, distil: DistilTargets | None) -> Tensor:
    """(1 - alpha) * task loss + alpha * distillation; the task loss alone without a teacher."""
    hard = _task_loss(task, logits_BC, batch, label_smoothing)
    if distil is None or batch.targets_BC is None:
        return hard
    return (1 - distil.alpha) * hard + distil.alpha * distillation(logits_BC, batch.targets_BC, distil.temperature)


def _task_loss(task: Task, logits_BC: Tensor, batch: Batch, label_smoothing: float) -> Tensor:
    """lambda * loss(labels) + (1 - lambda) * loss(partners' labels) where rows were mixed (arXiv 1710.09412, 1905.04899)."""
    own = task.loss(logits_BC, batch.labels_B, label_smoothing=label_smoothing)
    if batch.mix is None or batch.partner_labels_B is None:
        return own
    share = batch.mix.own_ratio(batch.inputs.shape)
    return share * own + (1 - share) * task.loss(logits_BC, batch.partner_labels_B, label_smoothing=label_smoothing)


@torch.no_grad()
def penalize_(weights: Sequence[Tensor], gradients: Sequence[Tensor], *, l1: float, l2: float) -> None:
    """Add the penalties' gradient, l1 * sign(w) + l2 * w, in place. At w = 0 the L1 part is 0, as autograd has it."""
    for weight, gradient in zip(weights, gradients, strict=True):
        if l1:
            gradient.add_(weight.sign(), alpha=l1)
        if l2:
            gradient.add_(weight, alpha=l2)
