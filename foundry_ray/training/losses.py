"""What a step minimises: the task's loss, mixed labels, the teacher's answers and layers, and penalties on the weights.

The penalties l1 * sum |w| + l2 / 2 * sum w^2 never enter the loss tensor: their gradient is added to the clipped gradient of the loss, one
weight at a time, in the optimizer. So it is the same for whole and for sharded weights (ZeRO 3), needs no backward pass, and leaves the
reported loss that of the task. Shapes: B batch, C classes or tokens (logits may have places between, as (B, T, C)), K teachers; features are
(B, C, H, W), (B, T, D) or (B, D).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from foundry_ray.protocols import Task

if TYPE_CHECKING:
    from foundry_ray.training.feed import Batch, Labelled
    from foundry_ray.training.job import Distil


def distillation(logits_BC: Tensor, targets_BC: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch and its places (Hinton et al., arXiv 1503.02531, section 2).

    Where several teachers answer, targets (B, K, C), the softened probabilities of all are averaged.
    """
    student = functional.log_softmax(logits_BC / temperature, dim=-1).flatten(0, -2)
    teacher = functional.log_softmax(targets_BC / temperature, dim=-1)
    if targets_BC.ndim > logits_BC.ndim:
        teacher = teacher.logsumexp(dim=1) - math.log(teacher.shape[1])
    return functional.kl_div(student, teacher.flatten(0, -2), reduction="batchmean", log_target=True) * temperature**2


def hint_distance(regressed: Tensor, hint: Tensor) -> Tensor:
    """1/2 of the mean squared difference between a teacher's layer and what a regressor makes of the student's (FitNets, arXiv 1412.6550, eq. 3).

    The paper sums over the elements of a sample; here their mean is taken, so that this term weighs the same for small and for large layers.
    """
    return 0.5 * functional.mse_loss(regressed.float(), hint.float())


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1/2 of || Qs / ||Qs|| - Qt / ||Qt|| ||_2, mean over the batch, where Q is the map of squared activations summed over the channels (arXiv
    1612.03928, eq. 2 with p = 2 and F = sum of |A|^2)."""
    lengths_B: Tensor = torch.linalg.vector_norm(_attention(student.float()) - _attention(teacher.float()), dim=1)
    return 0.5 * lengths_B.mean()


def _attention(features: Tensor) -> Tensor:
    """The map (B, H * W) or (B, T), of length 1."""
    return functional.normalize(features.square().sum(1 if features.ndim == 4 else -1).flatten(1), dim=1)


def training_loss(task: Task, logits_BC: Tensor, batch: Batch, *, label_smoothing: float, distil: Distil | None) -> Tensor:
    """(1 - alpha) * task loss + alpha * distillation; the task loss alone without a teacher.

    Rows without a label take the teacher's part alone. The task's part is the mean over the rows that have one: each counts 1 / (B * their share in
    the whole split), so that smaller passes make the same step.
    """
    hard = _task_loss(task, logits_BC, batch, label_smoothing)
    if distil is None or batch.targets_BC is None:
        return hard
    return (1 - distil.alpha) * hard + distil.alpha * distillation(logits_BC, batch.targets_BC, distil.temperature)


def _task_loss(task: Task, logits_BC: Tensor, batch: Batch, label_smoothing: float) -> Tensor:
    """lambda * loss(labels) + (1 - lambda) * loss(partners' labels) where rows were mixed (arXiv 1710.09412, 1905.04899)."""
    own = _labelled_loss(task, logits_BC, batch.labels_B, batch.labelled, label_smoothing)
    if batch.mix is None or batch.partner_labels_B is None:
        return own
    share = batch.mix.own_ratio(batch.inputs.shape)
    return share * own + (1 - share) * _labelled_loss(task, logits_BC, batch.partner_labels_B, batch.partner_labelled, label_smoothing)


def _labelled_loss(task: Task, logits_BC: Tensor, labels_B: Tensor, labelled: Labelled | None, label_smoothing: float) -> Tensor:
    """The task's loss over the rows that have a label; None says that all have."""
    if labelled is None:
        return task.loss(logits_BC, labels_B, label_smoothing=label_smoothing)
    if not len(labelled.places):
        return logits_BC.new_zeros(())
    loss = task.loss(logits_BC[labelled.places], labels_B[labelled.places], label_smoothing=label_smoothing)
    return loss * (len(labelled.places) / (len(labels_B) * labelled.share))


@torch.no_grad()
def penalize_(weights: Sequence[Tensor], gradients: Sequence[Tensor], *, l1: float, l2: float) -> None:
    """Add the penalties' gradient, l1 * sign(w) + l2 * w, in place. At w = 0 the L1 part is 0, as autograd has it."""
    for weight, gradient in zip(weights, gradients, strict=True):
        if l1:
            gradient.add_(weight.sign(), alpha=l1)
        if l2:
            gradient.add_(weight, alpha=l2)
