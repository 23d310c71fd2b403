"""What a step minimises. Shapes: B batch, C classes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from foundry_ray.protocols import Task
from foundry_ray.training.feed import Batch, DistilTargets


def distillation(logits_BC: Tensor, targets_BC: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch (Hinton et al., arXiv 1503.02531, section 2)."""
    student_BC = functional.log_softmax(logits_BC / temperature, dim=1)
    teacher_BC = functional.log_softmax(targets_BC / temperature, dim=1)
    return functional.kl_div(student_BC, teacher_BC, reduction="batchmean", log_target=True) * temperature**2


def training_loss(task: Task, logits_BC: Tensor, batch: Batch, *, label_smoothing: float, distil: DistilTargets | None) -> Tensor:
    """(1 - alpha) * task loss + alpha * distillation; the task loss alone without a teacher."""
    hard = task.loss(logits_BC, batch.labels_B, label_smoothing=label_smoothing)
    if distil is None or batch.targets_BC is None:
        return hard
    return (1 - distil.alpha) * hard + distil.alpha * distillation(logits_BC, batch.targets_BC, distil.temperature)
