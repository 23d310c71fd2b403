"""Teachers that are at hand while a student trains: what they change, what is kept, and what is never shipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from foundry_ray.errors import ConfigError, Preempted, RecipeInfeasible
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.checkpoint.bytes import from_bytes, to_bytes
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.feed import DistilTargets, TensorSplit
from foundry_ray.training.job import Distil, OnlineTeacher, OwnAverage
from foundry_ray.training.loop import FitJob, Loop
from foundry_ray.training.teaching import Lessons

MakeModel = Callable[[], nn.Module]


class _Stops:
    """A control that ends training after a step, as a preemption does."""

    def __init__(self, step: int) -> None:
        self._step = step

    def wishes(self) -> tuple[float, ...]:
        return (1.0,)

    def act(self, wishes: object, loop: Loop) -> None:
        if loop.step == self._step:
            raise Preempted("stop", hint="go on")


class _Ticking(FakeClock):
    """Each look is two seconds after the one before, so that every step is a pulse."""

    def monotonic_s(self) -> float:
        self.advance(2.0)
        return super().monotonic_s()


def teacher() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        model = nn.Sequential(nn.BatchNorm2d(1, momentum=1.0), nn.Conv2d(1, 7, 3), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(112, 3))
        model(torch.rand(16, 1, 6, 6) * 200)
        return model


def online(**fields: object) -> OnlineTeacher:
    return dataclasses.replace(OnlineTeacher(models=(teacher(),), alpha=0.4, temperature=2.0), **fields)


KINDS: dict[str, Callable[[], Distil]] = {
    "logits": online,
    "ensemble": lambda: online(models=(teacher(), teacher())),
    "features": lambda: online(transfer="features", beta=0.7),
    "attention": lambda: online(transfer="attention", beta=0.7),
    "average": lambda: OwnAverage(alpha=0.4, temperature=2.0),
}


def loop_of(job: FitJob, model: nn.Module, **arguments: object) -> Loop:
    return Loop(job, TorchEngine(model, job.train), **{"reporter": RecordingReporter(), "clock": FakeClock(), **arguments})


def weights(loop: Loop) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in loop.state().own.items()} | loop.eval_model().state_dict()


def trained(loop: Loop) -> Loop:
    while not loop.is_done:
        loop.run_epoch()
    return loop


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_is_broken_off_goes_on_bit_for_bit(
    with_train: Callable[..., FitJob], make_model: MakeModel, kind: str, optimizer: str
) -> None:
    def job() -> FitJob:
        return dataclasses.replace(with_train(epochs=2, optimizer=optimizer, mixup_alpha=0.3, grad_clip=0.5), distil=KINDS[kind]())

    unbroken = trained(loop_of(job(), make_model()))
    first = loop_of(job(), make_model(), control=_Stops(4), clock=_Ticking())
    with pytest.raises(Preempted):
        first.run_epoch()
    second = loop_of(job(), make_model())
    second.restored(from_bytes(to_bytes(first.state()), second.state()))
    trained(second)
    ours, theirs = weights(unbroken), weights(second)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_at_hand_changes_what_is_learnt(job: FitJob, make_model: MakeModel, kind: str) -> None:
    alone, taught = loop_of(job, make_model()), loop_of(dataclasses.replace(job, distil=KINDS[kind]()), make_model())
    assert alone.run_epoch()["loss"] != pytest.approx(taught.run_epoch()["loss"], rel=1e-3)


def test_a_regressor_learns_and_is_part_of_no_model(job: FitJob, make_model: MakeModel) -> None:
    model = make_model()
    names = list(model.state_dict())
    loop = loop_of(dataclasses.replace(job, distil=online(transfer="features", beta=5.0)), model)
    before = {name: tensor.clone() for name, tensor in loop.state().own.items() if name.startswith("lessons/weights/")}
    loop.run_epoch()
    after = loop.state().own
    assert {tuple(tensor.shape) for tensor in before.values()} == {(7, 4, 1, 1), (7,)}
    assert all(not torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert list(loop.eval_model().state_dict()) == names
    assert list(model.state_dict()) == names
    assert not any(name in fragment.name for fragment in loop.state().fragments for name in ("lessons", "regressor"))


def test_a_regressor_begins_as_the_seed_says(job: FitJob, make_model: MakeModel) -> None:
    def first(seed: int) -> Tensor:
        distil = online(transfer="features", beta=1.0)
        return loop_of(dataclasses.replace(job, distil=distil, seed=seed), make_model()).state().own["lessons/weights/0.weight"]

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))


def test_hints_bring_the_students_layer_near_the_teachers(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    job = with_train(epochs=10, ema_decay=0.0)
    loop = loop_of(dataclasses.replace(job, distil=online(alpha=0.0, transfer="features", beta=10.0, uses_labels=False)), make_model())
    losses = [loop.run_epoch()["loss"] for _ in range(10)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_teacher_with_larger_numbers_weighs_no_more(job: FitJob, make_model: MakeModel) -> None:
    def loss(scale: float) -> float:
        one = teacher()
        one[1].weight.data.mul_(scale)
        one[1].bias.data.mul_(scale)
        return loop_of(dataclasses.replace(job, distil=online(models=(one,), alpha=0.0, transfer="features", beta=1.0)), make_model()).run_epoch()[
            "loss"
        ]

    assert loss(100.0) == pytest.approx(loss(1.0), rel=0.2)


def test_the_teacher_is_left_as_it_was(job: FitJob, make_model: MakeModel) -> None:
    one = teacher()
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    loop_of(dataclasses.replace(job, distil=online(models=(one,), transfer="features", beta=1.0)), make_model()).run_epoch()
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())
    assert not any(module._forward_hooks for module in one.modules())


def test_an_online_teacher_answers_to_what_the_student_sees(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    asked: list[Tensor] = []
    seen: list[Tensor] = []
    one, model = teacher(), make_model()
    one.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0].clone()))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()) if model.training else None)
    loop_of(dataclasses.replace(with_train(mixup_alpha=0.4), distil=online(models=(one,))), model).run_epoch()
    assert len(asked) == len(seen) == 6
    assert all(torch.equal(*pair) for pair in zip(asked, seen, strict=True))


def test_the_average_answers_in_evaluation_mode_with_the_averaged_weights(job: FitJob, make_model: MakeModel) -> None:
    loop = loop_of(dataclasses.replace(job, distil=OwnAverage(alpha=0.4, temperature=2.0)), make_model())
    loop.run_epoch()
    inputs, average = job.split_val.inputs_N[:5].float(), loop._average
    assert average is not None
    torch.testing.assert_close(average.evaluate(inputs), loop.eval_model()(inputs))
    assert loop._engine.model.training


def test_without_an_average_the_student_cannot_teach_itself(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    job = dataclasses.replace(with_train(ema_decay=0.0), distil=OwnAverage(alpha=0.4, temperature=2.0))
    with pytest.raises(RecipeInfeasible, match="the student's average is its teacher, and `ema_decay` is 0"):
        loop_of(job, make_model())


def test_layers_without_places_have_no_attention(job: FitJob) -> None:
    def mlp(width: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(36, width), nn.ReLU(), nn.Linear(width, 3))

    with pytest.raises(RecipeInfeasible, match="neither pixels nor places, so there is no attention to transfer"):
        loop_of(dataclasses.replace(job, distil=online(models=(mlp(8),), transfer="attention", beta=1.0)), mlp(4))


def without_labels(job: FitJob, *, every: int) -> FitJob:
    labels_N = job.split_train.labels_N.clone()
    labels_N[::every] = -1
    return dataclasses.replace(job, split_train=TensorSplit(inputs_N=job.split_train.inputs_N, labels_N=labels_N))


def test_rows_without_labels_and_without_a_teacher_are_refused(job: FitJob, make_model: MakeModel) -> None:
    with pytest.raises(ConfigError, match=r"16 of 48 training rows have no label \(below 0\), and no teacher answers for them"):
        loop_of(without_labels(job, every=3), make_model())


def test_a_split_without_any_label_can_be_learnt_from_a_teacher(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    job = without_labels(with_train(epochs=12, lr=3e-2), every=1)
    answers = torch.nn.functional.one_hot(torch.arange(48) % 3, 3) * 6.0
    cached = DistilTargets(logits_VNC=answers.half()[None], alpha=1.0, temperature=1.0)
    assert trained(loop_of(dataclasses.replace(job, distil=cached), make_model())).curve[-1]["accuracy"] > 0.9


def test_labels_that_are_not_to_be_used_change_nothing(job: FitJob, make_model: MakeModel) -> None:
    def loss(one: FitJob) -> float:
        return loop_of(dataclasses.replace(one, distil=online(alpha=1.0, uses_labels=False)), make_model()).run_epoch()["loss"]

    wrong = TensorSplit(inputs_N=job.split_train.inputs_N, labels_N=job.split_train.labels_N.flip(0))
    assert loss(job) == loss(dataclasses.replace(job, split_train=wrong))


def test_smaller_passes_make_the_same_step_with_rows_without_labels_too(with_train: Callable[..., FitJob]) -> None:
    def after(micro_batch_size: int | None) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
        job = without_labels(with_train(ema_decay=0.0), every=3)
        job = dataclasses.replace(job, distil=online(), micro_batch_size=micro_batch_size)
        engine = TorchEngine(model, job.train, accumulation=8 // (micro_batch_size or 8))
        Loop(job, engine, reporter=RecordingReporter(), clock=FakeClock()).run_epoch()
        return model.state_dict()

    whole, parts = after(None), after(2)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_regressor_is_trained_as_if_fp16_had_not_scaled_its_gradient(job: FitJob, make_model: MakeModel) -> None:
    def step(scale: float, value: float) -> dict[str, Tensor]:
        model = make_model()
        lessons = Lessons(
            online(transfer="features", beta=1.0),
            TorchEngine(model, job.train),
            None,
            train=job.train.model_copy(update={"optimizer": "sgd"}),
            sample=job.split_train.inputs_N[:2].float(),
            seed=3,
        )
        for param in lessons._regressors.parameters():
            param.grad = torch.full_like(param, value * scale)
        before = {name: tensor.clone() for name, tensor in lessons.tensors().items()}
        lessons.step(0.1, scalars={"loss_scale": scale} if scale != 1 else {})
        return {name: tensor - before[name] for name, tensor in lessons.tensors().items() if name.startswith("weights/")}

    plain, scaled, overflowed = step(1.0, 0.5), step(1024.0, 0.5), step(1024.0, float("inf"))
    assert all(bool(tensor.any()) and torch.equal(tensor, scaled[name]) for name, tensor in plain.items())
    assert all(bool(tensor.isfinite().all()) for tensor in overflowed.values())
