from __future__ import annotations

import pytest
import torch

from foundry_ray import tasks
from foundry_ray.training.feed import Batch, DistilTargets
from foundry_ray.training.losses import penalize_, training_loss
from foundry_ray.training.mixing import MixPlan

TASK = tasks.get("image_classification")
LOGITS_BC = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
INPUTS = torch.zeros(4, 1, 8, 8)
LABELS_B, PARTNERS_B = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 0])


def loss_of(labels_B: torch.Tensor, smoothing: float = 0.0) -> float:
    return TASK.loss(LOGITS_BC, labels_B, label_smoothing=smoothing).item()


@pytest.mark.parametrize(
    ("plan", "share"),
    [(MixPlan(kind="mixup", lam=0.3, shift=1), 0.3), (MixPlan(kind="cutmix", lam=0.5, shift=1, box=(0.0, 0.5, 0.5)), 1 - 2 * 4 / 64)],
)
def test_mixed_rows_count_both_labels_by_their_share(plan: MixPlan, share: float) -> None:
    batch = Batch(inputs=INPUTS, labels_B=LABELS_B, partner_labels_B=PARTNERS_B, mix=plan)
    loss = training_loss(TASK, LOGITS_BC, batch, label_smoothing=0.1, distil=None)
    assert loss.item() == pytest.approx(share * loss_of(LABELS_B, 0.1) + (1 - share) * loss_of(PARTNERS_B, 0.1))


def test_rows_that_are_not_mixed_have_the_tasks_loss() -> None:
    batch = Batch(inputs=INPUTS, labels_B=LABELS_B)
    assert training_loss(TASK, LOGITS_BC, batch, label_smoothing=0.0, distil=None).item() == loss_of(LABELS_B)


def test_a_teacher_takes_its_share_of_the_loss() -> None:
    batch = Batch(inputs=INPUTS, labels_B=LABELS_B, targets_BC=LOGITS_BC)
    distil = DistilTargets(logits_VNC=LOGITS_BC[None], alpha=0.75, temperature=2.0)
    loss = training_loss(TASK, LOGITS_BC, batch, label_smoothing=0.0, distil=distil)
    assert loss.item() == pytest.approx(0.25 * loss_of(LABELS_B), abs=1e-6)  # a student that agrees has nothing to learn from the teacher


def test_the_penalties_gradient_is_that_of_autograd_on_a_shard_too() -> None:
    weights = torch.tensor([0.5, -2.0, 0.0, 3.0], requires_grad=True)
    (0.1 * weights.abs().sum() + 0.4 / 2 * weights.square().sum()).backward()
    assert weights.grad is not None
    gradients = torch.zeros(4)
    for part in (slice(0, 1), slice(1, 4)):
        penalize_([weights.detach()[part]], [gradients[part]], l1=0.1, l2=0.4)
    torch.testing.assert_close(gradients, weights.grad)
