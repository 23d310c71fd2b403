"""Training on adversarial images: what is done to a batch, to whom, and that it comes back after a kill."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from foundry_ray.config import AdversarialConfig, DeepSpeedConfig, StudentConfig, TeacherConfig, TrainConfig, semantic
from foundry_ray.errors import ConfigError
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.adversarial import Adversary
from foundry_ray.training.checkpoint.bytes import from_bytes, to_bytes
from foundry_ray.training.checks import check_inputs
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.feed import Batch, Labelled
from foundry_ray.training.job import OnlineTeacher
from foundry_ray.training.loop import FitJob, Loop, TensorSplit
from foundry_ray.training.mixing import MixPlan
from foundry_ray.types import ImageSchema, TokenSchema

MakeModel = Callable[[], nn.Module]
FGSM = AdversarialConfig(kind="fgsm", epsilon=4.0, share=1.0)
PGD = AdversarialConfig(kind="pgd", epsilon=6.0, steps=4, share=1.0)


def adversary(job: FitJob, model: nn.Module, config: AdversarialConfig) -> Adversary:
    return Adversary(job, TorchEngine(model, job.train), config)


def batch_of(job: FitJob, num_rows: int = 8) -> Batch:
    return Batch(inputs=job.split_train.inputs_N[:num_rows].float(), labels_B=job.split_train.labels_N[:num_rows])


@torch.no_grad()
def loss_of(model: nn.Module, batch: Batch) -> float:
    return float(nn.functional.cross_entropy(model.eval()(batch.inputs), batch.labels_B))


def linear_model() -> nn.Module:
    """Logits are w_c . x with weights that are written down."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False))
    weight = torch.linspace(-1, 1, 108).reshape(3, 36) * torch.tensor([1.0, -2.0, 0.5])[:, None] / 400
    model[1].weight.data.copy_(weight)
    return model


def test_fgsm_on_a_linear_model_is_the_step_by_hand(job: FitJob) -> None:
    batch, model = batch_of(job), linear_model()
    weight = model[1].weight.detach().clone()
    probabilities = torch.softmax(batch.inputs.flatten(1) @ weight.T, dim=1)
    gradient = (probabilities - nn.functional.one_hot(batch.labels_B, 3)) @ weight  # of cross-entropy, by its definition
    wanted = (batch.inputs + 4.0 * gradient.sign().reshape(batch.inputs.shape)).clamp(0, 255)
    found = adversary(job, model, FGSM).changed(batch, 0)
    assert torch.equal(found.inputs, wanted)
    assert torch.equal(found.labels_B, batch.labels_B)
    assert torch.equal(batch.inputs, batch_of(job).inputs), "the given batch stays"


def test_a_gradient_too_small_for_half_precision_still_misleads(job: FitJob) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 16, bias=False), nn.Linear(16, 3, bias=False))
    for layer, size in ((model[1], 3e-4), (model[2], 3e-5)):
        layer.weight.data.copy_(size * (1 + torch.rand_like(layer.weight)) * torch.randn_like(layer.weight).sign())
    batch, half = batch_of(job), dataclasses.replace(job, train=job.train.model_copy(update={"precision": "fp16"}))
    exact, found = (adversary(one, model, FGSM).changed(batch, 0).inputs for one in (job, half))
    assert (found != batch.inputs).float().mean() > 0.95 * (exact != batch.inputs).float().mean()
    assert (found == exact).float().mean() > 0.95


@pytest.mark.parametrize("config", [FGSM, PGD])
def test_changed_images_stay_near_and_are_images_and_raise_the_loss(job: FitJob, make_model: MakeModel, config: AdversarialConfig) -> None:
    model, batch = make_model(), batch_of(job)
    found = adversary(job, model, config).changed(batch, 0)
    assert (found.inputs - batch.inputs).abs().max() <= config.epsilon + 1e-4
    assert found.inputs.min() >= 0
    assert found.inputs.max() <= 255
    assert loss_of(model, found) > loss_of(model, batch)


def test_many_small_steps_mislead_more_than_one(job: FitJob, make_model: MakeModel) -> None:
    model, batch = make_model(), batch_of(job, 48)
    losses = [
        loss_of(model, adversary(job, model, config).changed(batch, 0))
        for config in (FGSM, AdversarialConfig(kind="pgd", epsilon=4.0, steps=20, share=1.0))
    ]
    assert losses[1] > losses[0]


def test_the_model_learns_nothing_while_it_is_attacked(job: FitJob, make_model: MakeModel) -> None:
    model = make_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adversary(job, model, PGD).changed(batch_of(job), 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "weights and batch-norm statistics"
    assert all(param.grad is None for param in model.parameters())
    assert model.training


def changed_rows(before: Tensor, after: Tensor) -> list[int]:
    return [row for row in range(len(before)) if not torch.equal(before[row], after[row])]


def test_the_share_is_of_the_global_batch_however_it_is_split(job: FitJob, make_model: MakeModel) -> None:
    config = FGSM.model_copy(update={"share": 0.3})
    enemy, batch = adversary(job, make_model(), config), batch_of(job, 20)
    whole = changed_rows(batch.inputs, enemy.changed(batch, 0).inputs)
    assert len(whole) == 6
    pieces = []
    for start in range(0, 20, 4):
        part = Batch(inputs=batch.inputs[start : start + 4], labels_B=batch.labels_B[start : start + 4])
        pieces += [start + row for row in changed_rows(part.inputs, enemy.changed(part, start).inputs)]
    assert pieces == whole


@pytest.mark.parametrize("config", [FGSM, PGD])
@pytest.mark.parametrize("places", [[], [1, 4]])
def test_rows_without_a_label_and_without_a_teachers_answer_stay(
    job: FitJob, make_model: MakeModel, config: AdversarialConfig, places: list[int]
) -> None:
    labelled = Labelled(places=torch.tensor(places, dtype=torch.int64), share=0.25)
    batch = dataclasses.replace(batch_of(job), labelled=labelled)
    assert changed_rows(batch.inputs, adversary(job, make_model(), config).changed(batch, 0).inputs) == places


def test_mixed_rows_are_changed_where_either_has_a_label(job: FitJob, make_model: MakeModel) -> None:
    own, others = (Labelled(places=torch.tensor([place]), share=0.25) for place in (1, 4))
    batch = dataclasses.replace(batch_of(job), labelled=own, partner_labelled=others)
    mixed = dataclasses.replace(batch, partner_labels_B=batch.labels_B.flip(0), mix=MixPlan(kind="mixup", lam=0.6, shift=3))
    assert changed_rows(batch.inputs, adversary(job, make_model(), PGD).changed(mixed, 0).inputs) == [1, 4]


def test_who_learns_from_a_teacher_in_the_step_alone_has_no_adversary(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    taught = OnlineTeacher(models=(make_model(),), alpha=1.0, temperature=2.0, uses_labels=False)
    attacked, plain = (
        run(dataclasses.replace(with_train(epochs=1, adversarial=config), distil=taught), make_model(), until=1) for config in (PGD, None)
    )
    assert attacked.curve[0]["loss"] == plain.curve[0]["loss"]


def run(job: FitJob, model: nn.Module, *, until: int = 2) -> Loop:
    loop = Loop(job, TorchEngine(model, job.train), reporter=RecordingReporter(), clock=FakeClock())
    while loop.epoch < until:
        loop.run_epoch()
    return loop


@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
def test_resume_is_bit_identical_to_the_unbroken_run(with_train: Callable[..., FitJob], make_model: MakeModel, kind: str) -> None:
    config = AdversarialConfig(kind="fgsm", share=0.5) if kind == "fgsm" else AdversarialConfig(kind="pgd", steps=2)
    job = with_train(epochs=2, adversarial=config, mixup_alpha=0.4)
    unbroken, first = run(job, make_model()), run(job, make_model(), until=1)
    torch.manual_seed(77)
    second = run(job, make_model(), until=0)
    second.restored(from_bytes(to_bytes(first.state()), second.state()))
    second.run_epoch()
    pairs = zip(unbroken.eval_model().state_dict().values(), second.eval_model().state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    plain = run(with_train(epochs=2, mixup_alpha=0.4), make_model())
    assert not torch.equal(plain.eval_model().state_dict()["1.weight"], unbroken.eval_model().state_dict()["1.weight"])


def test_who_was_trained_on_them_withstands_them_better(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    epsilon = 30.0  # the classes lie 60 apart
    strong = AdversarialConfig(kind="fgsm", epsilon=epsilon, share=1.0)
    losses = []
    for config in (None, strong):
        job = with_train(epochs=12, adversarial=config)
        model = run(job, make_model(), until=12).eval_model()
        model.requires_grad_(True)
        losses.append(loss_of(model, adversary(job, model, strong).changed(batch_of(job, 48), 0)))
    assert losses[1] < losses[0]


def test_token_ids_are_refused(job: FitJob, make_model: MakeModel) -> None:
    split = TensorSplit(inputs_N=torch.zeros((16, 5), dtype=torch.int64), labels_N=torch.zeros(16, dtype=torch.int64))
    tokens = dataclasses.replace(job, train=job.train.model_copy(update={"adversarial": FGSM}), split_train=split, split_val=split, augment=())
    with pytest.raises(ConfigError, match="`adversarial` is set, but the data set has token ids"):
        run(tokens, make_model(), until=0)
    with pytest.raises(ConfigError, match="token ids, wanted images"):
        check_inputs(TeacherConfig(train=TrainConfig(adversarial=FGSM)), TokenSchema(length=5, vocab_size=9, classes=("a", "b")), augment=())


def test_weights_in_pieces_are_refused_before_anything_starts() -> None:
    schema = ImageSchema(channels=1, height=6, width=6, dtype="uint8", classes=("a", "b", "c"))
    config = TeacherConfig(train=TrainConfig(adversarial=PGD), workers=2, deepspeed=DeepSpeedConfig(zero_stage=3))
    with pytest.raises(ConfigError, match="DeepSpeed shares the weights out or casts them"):
        check_inputs(config, schema, augment=())
    check_inputs(config.model_copy(update={"deepspeed": DeepSpeedConfig(zero_stage=2)}), schema, augment=())


@pytest.mark.parametrize("config", [FGSM, PGD])
def test_a_student_is_trained_so_too_and_a_record_of_it_can_be_read_again(config: AdversarialConfig) -> None:
    shared = StudentConfig(adversarial=config).model_dump(include=set(TrainConfig.model_fields))
    assert TrainConfig.model_validate({**shared, "lr": 1e-3}).adversarial == config


def test_a_key_that_is_off_changes_no_key_of_what_was_trained_before() -> None:
    assert "adversarial" not in semantic(TrainConfig())
    assert "adversarial" not in semantic(StudentConfig())
    assert "adversarial" in semantic(TrainConfig(adversarial=FGSM))


def test_a_key_that_nobody_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="kind is fgsm with steps 3; fgsm takes one step"):
        AdversarialConfig(kind="fgsm", steps=3)
