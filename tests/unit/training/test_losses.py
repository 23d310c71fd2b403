from __future__ import annotations

import pytest
import torch

from foundry_ray import tasks
from foundry_ray.training.feed import Batch, DistilTargets, Labelled
from foundry_ray.training.losses import attention_distance, distillation, hint_distance, penalize_, training_loss
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


def test_distillation_is_the_divergence_at_a_temperature_times_its_square() -> None:
    targets_BC = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    teacher_BC, student_BC = torch.softmax(targets_BC / 3, 1), torch.softmax(LOGITS_BC / 3, 1)
    expected = 9 * (teacher_BC * (teacher_BC / student_BC).log()).sum() / 4
    assert distillation(LOGITS_BC, targets_BC, 3.0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_of_several_teachers_the_softened_probabilities_are_averaged() -> None:
    targets_BKC = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1)) * 4
    mean_BC = torch.softmax(targets_BKC / 2, 2).mean(1)
    expected = distillation(LOGITS_BC, 2 * mean_BC.log(), 2.0)
    assert distillation(LOGITS_BC, targets_BKC, 2.0).item() == pytest.approx(expected.item(), rel=1e-5)
    assert distillation(LOGITS_BC, targets_BKC.mean(1), 2.0).item() != pytest.approx(expected.item(), rel=1e-2)


def test_of_a_sequence_the_mean_over_its_places_is_learnt() -> None:
    generator = torch.Generator().manual_seed(2)
    logits_BTV, targets_BTV = torch.randn(2, 5, 3, generator=generator), torch.randn(2, 5, 3, generator=generator)
    expected = sum(distillation(logits_BTV[b, t][None], targets_BTV[b, t][None], 2.0).item() for b in range(2) for t in range(5)) / 10
    assert distillation(logits_BTV, targets_BTV, 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_attention_is_compared_as_the_paper_says() -> None:
    student = torch.tensor([[[[1.0, 2.0]], [[2.0, 0.0]]]])  # 2 channels of 1 x 2 pixels: the map is (1 + 4, 4 + 0) = (5, 4)
    teacher = torch.tensor([[[[3.0, 0.0]]]])  # one channel: (9, 0)
    q_s, q_t = (5 / 41**0.5, 4 / 41**0.5), (1.0, 0.0)
    expected = 0.5 * ((q_s[0] - q_t[0]) ** 2 + (q_s[1] - q_t[1]) ** 2) ** 0.5
    assert attention_distance(student, teacher).item() == pytest.approx(expected, rel=1e-6)
    assert attention_distance(7 * student, student).item() == pytest.approx(0.0, abs=1e-6)


def test_attention_of_equal_layers_has_a_gradient() -> None:
    features = torch.rand(2, 3, 2, 2, requires_grad=True)
    attention_distance(features, features.detach()).backward()
    assert features.grad is not None
    assert bool(features.grad.isfinite().all())


def test_a_hint_is_half_of_the_mean_squared_difference() -> None:
    assert hint_distance(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])).item() == pytest.approx(
        0.5 * (1 + 4 + 1) / 4
    )


def taught(labels_B: torch.Tensor, places: list[int], share: float, *, alpha: float = 0.5) -> tuple[float, torch.Tensor]:
    """Loss and the gradient of each row's logits."""
    logits_BC = LOGITS_BC.clone().requires_grad_()
    labelled = Labelled(places=torch.tensor(places, dtype=torch.int64), share=share)
    batch = Batch(inputs=INPUTS, labels_B=labels_B, labelled=labelled, targets_BC=LOGITS_BC.flip(0))
    distil = DistilTargets(logits_VNC=LOGITS_BC[None], alpha=alpha, temperature=2.0)
    loss = training_loss(TASK, logits_BC, batch, label_smoothing=0.1, distil=distil)
    loss.backward()
    assert logits_BC.grad is not None
    return loss.item(), logits_BC.grad


@pytest.mark.parametrize("missing", [-1, -100])
def test_rows_without_a_label_learn_from_the_teacher_alone(missing: int) -> None:
    _, teacher_BC = taught(LABELS_B, [], 0.5)
    _, grad_BC = taught(torch.tensor([0, missing, 2, missing]), [0, 2], 0.5)
    assert torch.equal(grad_BC[[1, 3]], teacher_BC[[1, 3]])
    assert not torch.allclose(grad_BC[[0, 2]], teacher_BC[[0, 2]])


def test_the_labels_part_is_the_mean_over_the_rows_that_have_one_in_the_whole_split() -> None:
    soft = taught(LABELS_B, [], 0.5)[0]
    hard = TASK.loss(LOGITS_BC[[0, 2]], LABELS_B[[0, 2]], label_smoothing=0.1).item()
    assert taught(LABELS_B, [0, 2], 0.5)[0] == pytest.approx(soft + 0.5 * hard, rel=1e-5)
    assert taught(LABELS_B, [0, 2], 0.25)[0] == pytest.approx(soft + 0.5 * 2 * hard, rel=1e-5)  # this batch has twice its share
