from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foundry_ray import tasks
from foundry_ray.compression.sparsify import Masks, SparsifyParams
from foundry_ray.errors import Diverged, OutOfRange, Preempted
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.checkpoint.bytes import from_bytes, to_bytes
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.feed import Batch
from foundry_ray.training.loop import DistilTargets, FitJob, Loop, TensorSplit
from foundry_ray.training.losses import distillation, training_loss

MakeModel = Callable[[], nn.Module]


def make_loop(job: FitJob, model: nn.Module, **arguments: object) -> Loop:
    return Loop(job, TorchEngine(model, job.train), **{"reporter": RecordingReporter(), "clock": FakeClock(), **arguments})


def weights(loop: Loop) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in loop.eval_model().state_dict().items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def copied(first: Loop, second: Loop) -> Loop:
    """The second loop with the state of the first, through bytes."""
    second.restored(from_bytes(to_bytes(first.state()), second.state()))
    return second


def slowed(model: nn.Module, clock: FakeClock, *, seconds: float) -> nn.Module:
    """The model with a forward pass that takes time in training."""
    model[4].register_forward_hook(lambda flatten, *_: clock.sleep(seconds) if flatten.training else None)
    return model


def train(loop: Loop) -> Loop:
    while not loop.is_done:
        loop.run_epoch()
    return loop


def shared(metrics: dict[str, float]) -> dict[str, float]:
    """What does not hang on how long something took."""
    return {name: value for name, value in metrics.items() if name not in ("samples_per_s", "epoch_s")}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion", "adafactor"])
def test_resume_is_bit_identical_to_the_unbroken_run(with_train: Callable[..., FitJob], make_model: MakeModel, optimizer: str) -> None:
    job = with_train(optimizer=optimizer, mixup_alpha=0.4)
    unbroken = make_loop(job, make_model())
    metrics = [unbroken.run_epoch() for _ in range(4)]
    first = make_loop(job, make_model())
    first.run_epoch()
    torch.manual_seed(1234)
    second = copied(first, make_loop(job, make_model()))
    assert second.epoch == 1
    assert [second.run_epoch() for _ in range(3)] == metrics[1:]
    assert second.curve == metrics
    assert_equal(weights(unbroken), weights(second))


class _StopsAt:
    """A control that ends training after a step, as a preemption does."""

    def __init__(self, step: int) -> None:
        self._step = step

    def wishes(self) -> tuple[float, ...]:
        return (1.0,)

    def act(self, wishes: Sequence[float], loop: Loop) -> None:
        if loop.step == self._step:
            raise Preempted("stop", hint="go on")


@pytest.mark.parametrize("step", [1, 5, 6, 10])
def test_resume_in_the_middle_of_an_epoch_is_bit_identical(with_train: Callable[..., FitJob], make_model: MakeModel, step: int) -> None:
    job = with_train(epochs=2)
    unbroken = make_loop(job, make_model())
    metrics = [unbroken.run_epoch(), unbroken.run_epoch()]
    clock = FakeClock()
    first = make_loop(job, slowed(make_model(), clock, seconds=2.0), control=_StopsAt(step), clock=clock)
    with pytest.raises(Preempted):
        train(first)
    second = train(copied(first, make_loop(job, make_model())))
    assert second.step == unbroken.step
    assert [shared(one) for one in second.curve] == [shared(one) for one in metrics]
    assert_equal(weights(unbroken), weights(second))


def test_after_a_resume_the_told_loss_is_that_of_the_steps_since(job: FitJob, make_model: MakeModel) -> None:
    def told(start: Loop | None, **arguments: object) -> dict[int, float]:
        clock, reporter = FakeClock(), RecordingReporter()
        loop = make_loop(job, slowed(make_model(), clock, seconds=2.0), clock=clock, reporter=reporter, **arguments)
        loop = copied(start, loop) if start else loop
        with suppress(Preempted):
            loop.run_epoch()
        stopped.append(loop)
        return {step: values["loss"] for step, values in reporter.points}

    stopped: list[Loop] = []
    unbroken = told(None)
    told(None, control=_StopsAt(3))
    assert told(stopped[1]) == {step: pytest.approx(unbroken[step], rel=1e-12) for step in (4, 5, 6)}


def test_a_pulse_changes_no_number(job: FitJob, make_model: MakeModel) -> None:
    clock, reporter = FakeClock(), RecordingReporter()
    often = make_loop(job, slowed(make_model(), clock, seconds=2.0), clock=clock, reporter=reporter)
    seldom = make_loop(job, make_model())
    assert often.run_epoch()["loss"] == seldom.run_epoch()["loss"]
    assert len(reporter.points) == 6
    assert_equal(weights(often), weights(seldom))


def test_smaller_passes_make_the_same_step(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    def trained(micro_batch_size: int | None) -> dict[str, Tensor]:
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
        model.load_state_dict(make_plain.state_dict())
        job = dataclasses.replace(with_train(ema_decay=0.0, mixup_alpha=0.3), micro_batch_size=micro_batch_size)
        accumulation = 8 // (micro_batch_size or 8)
        loop = Loop(job, TorchEngine(model, job.train, accumulation=accumulation), reporter=RecordingReporter(), clock=FakeClock())
        loop.run_epoch()
        return weights(loop)

    make_plain = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    whole, halves = trained(None), trained(2)
    for name, tensor in whole.items():
        torch.testing.assert_close(halves[name], tensor, rtol=1e-4, atol=1e-6)


def test_early_stopping_ends_training_when_val_stands_still(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    loop = make_loop(with_train(epochs=50, lr=1e-9, early_stopping_epochs=2, ema_decay=0.0), make_model())
    train(loop)
    assert 3 <= loop.epoch < 50


def test_nothing_ends_early_before_a_gradual_mask_has_all_its_zeros(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    masks = Masks(SparsifyParams(ratio=0.75, begin=0.6, end=0.8, whole_ends=False))
    job = dataclasses.replace(with_train(epochs=20, lr=1e-9, early_stopping_epochs=1, ema_decay=0.0), aids=(masks,))
    loop = make_loop(job, make_model())
    train(loop)  # val stands still from the beginning
    assert 16 < loop.epoch < 20
    assert (loop.eval_model().state_dict()["5.weight"] == 0).double().mean() == 0.75


def test_weights_that_are_no_numbers_never_become_a_checkpoint(job: FitJob, make_model: MakeModel) -> None:
    model = make_model()
    loop = make_loop(job, model)
    loop.run_epoch()
    with torch.no_grad():
        model[1].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(Diverged, match="the weights before step 6 is nan"):
        loop.state()


def test_training_learns(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    loop = make_loop(with_train(epochs=15, lr=3e-2), make_model())
    metrics = [loop.run_epoch() for _ in range(15)]
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    assert metrics[-1]["accuracy"] > 0.9


class _PlantedNan:
    """The task whose loss is NaN from a step on."""

    name = "planted"
    primary_metric = "accuracy"

    def __init__(self, step: int) -> None:
        self._inner = tasks.get("image_classification")
        self._left = step

    def loss(self, logits_BC: Tensor, labels_B: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        self._left -= torch.is_grad_enabled()
        return self._inner.loss(logits_BC, labels_B) * (float("nan") if self._left < 0 else 1.0)

    def correct(self, logits_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
        return self._inner.correct(logits_NC, labels_N)


def test_a_nan_ends_training_with_its_step_and_loss(job: FitJob, make_model: MakeModel) -> None:
    loop = make_loop(dataclasses.replace(job, task=_PlantedNan(step=8)), make_model())
    loop.run_epoch()
    with pytest.raises(Diverged, match="the loss at step 8 is nan, wanted a finite number") as caught:
        loop.run_epoch()
    assert caught.value.facts["step"] == 8
    assert caught.value.facts["loss"] != caught.value.facts["loss"]


def test_a_gradient_that_is_no_number_ends_training_before_it_spoils_the_weights(job: FitJob, make_model: MakeModel) -> None:
    model = make_model()
    calls = iter(range(100))
    model[5].weight.register_hook(lambda gradient: gradient * (float("nan") if next(calls) == 3 else 1.0))
    loop = make_loop(job, model)
    with pytest.raises(Diverged, match=r"the gradient is no number; its norm at \(loss .*\) step 3 is nan"):
        loop.run_epoch()
    assert all(bool(param.isfinite().all()) for param in model.parameters())


def test_a_batch_larger_than_the_split_is_refused(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    with pytest.raises(OutOfRange, match="batch_size is 49, but the training split has 48 rows"):
        make_loop(with_train(batch_size=49), make_model()).run_epoch()


def test_without_averaging_the_live_weights_are_judged_and_shipped(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    model = make_model()
    loop = make_loop(with_train(ema_decay=0.0), model)
    loop.run_epoch()
    assert_equal(weights(loop), model.state_dict())


def test_averaging_follows_its_definition_batch_norm_included(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    job, model = with_train(ema_decay=0.5, epochs=1), make_model()
    expected = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}
    steps: list[dict[str, Tensor]] = []

    def remember() -> None:
        steps.append({name: tensor.double().clone() for name, tensor in model.state_dict().items()})

    loop = make_loop(job, model, between_steps=remember)
    loop.run_epoch()
    remember()
    for number, live in enumerate(steps[1:]):
        decay = min(0.5, (1 + number) / (10 + number))
        expected = {name: decay * expected[name] + (1 - decay) * live[name] for name in live}
    average = loop.eval_model().state_dict()
    assert torch.allclose(average["0.running_var"].double(), expected["0.running_var"], rtol=1e-5)
    assert torch.allclose(average["1.weight"].double(), expected["1.weight"], rtol=1e-4, atol=1e-6)
    assert average["0.num_batches_tracked"] == 6


def test_rungs_judge_through_eval_transform_and_leave_the_weights_alone(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    def silence(model: nn.Module) -> nn.Module:
        for param in model.parameters():
            param.zero_()
        return model

    plain = make_loop(with_train(ema_decay=0.0), make_model())
    silenced = make_loop(dataclasses.replace(with_train(ema_decay=0.0), eval_transform=silence), make_model())
    plain_metrics, metrics = plain.run_epoch(), silenced.run_epoch()
    assert metrics["val_loss"] == pytest.approx(np.log(3), rel=1e-5)
    assert metrics["loss"] == plain_metrics["loss"]
    assert_equal(weights(plain), weights(silenced))


def test_waiting_between_steps_is_not_charged(job: FitJob, make_model: MakeModel) -> None:
    clock = FakeClock()
    loop = make_loop(job, make_model(), clock=clock, between_steps=lambda: clock.sleep(10.0))
    metrics = loop.run_epoch()
    assert metrics["epoch_s"] == 0.0
    assert metrics["samples_per_s"] > 1e6
    assert len(clock.sleeps) == 6


def test_the_process_keeps_its_own_random_stream(job: FitJob, make_model: MakeModel) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    loop = make_loop(job, make_model())
    torch.manual_seed(7)
    loop.run_epoch()
    assert torch.equal(torch.rand(3), expected)


def test_metrics_are_told_about_once_a_second(job: FitJob, make_model: MakeModel) -> None:
    clock, reporter = FakeClock(), RecordingReporter()
    loop = make_loop(job, slowed(make_model(), clock, seconds=0.25), clock=clock, reporter=reporter)
    loop.run_epoch()
    assert reporter.progresses == [(1, 24, "epoch 1/4"), (5, 24, "epoch 1/4")]
    assert [step for step, _ in reporter.points] == [1, 5]
    assert reporter.points[1][1]["samples_per_s"] == pytest.approx(32)


def test_distillation_follows_hinton(job: FitJob, make_model: MakeModel) -> None:
    logits_BC, targets_BC = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.0, 3.0, 1.0]])
    teacher, student = torch.softmax(targets_BC / 4, 1), torch.softmax(logits_BC / 4, 1)
    expected = 16 * (teacher * (teacher / student).log()).sum()
    assert distillation(logits_BC, targets_BC, 4.0) == pytest.approx(float(expected), rel=1e-5)


def test_alpha_is_the_share_of_the_teacher(job: FitJob) -> None:
    logits_BC, targets_BC, labels_B = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    distil = DistilTargets(logits_VNC=torch.zeros(1, 4, 3).half(), alpha=0.25, temperature=2.0)
    batch = Batch(inputs=torch.zeros(4, 1, 6, 6), labels_B=labels_B, targets_BC=targets_BC)
    loss = training_loss(job.task, logits_BC, batch, label_smoothing=0.0, distil=distil)
    expected = 0.75 * torch.nn.functional.cross_entropy(logits_BC, labels_B) + 0.25 * distillation(logits_BC, targets_BC, 2.0)
    assert float(loss) == pytest.approx(float(expected))


def test_an_epoch_trains_on_the_targets_of_its_view(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    def losses(logits_VNC: Tensor) -> list[float]:
        job = with_train(ema_decay=0.0, lr=1e-9)
        targets = DistilTargets(logits_VNC=logits_VNC.half(), alpha=1.0, temperature=1.0)
        loop = make_loop(dataclasses.replace(job, distil=targets), make_model())
        return [loop.run_epoch()["loss"] for _ in range(3)]

    flat = torch.zeros(2, 48, 3)
    second_view_differs = torch.stack((flat[0], 5 * torch.nn.functional.one_hot(torch.zeros(48, dtype=torch.int64), 3)))
    plain, changed = losses(flat), losses(second_view_differs)
    assert changed[0] == plain[0]
    assert changed[1] > plain[1] + 0.5
    assert changed[2] == pytest.approx(plain[2], abs=1e-5)


def test_alpha_zero_is_training_without_a_teacher(job: FitJob, make_model: MakeModel) -> None:
    targets = DistilTargets(logits_VNC=torch.randn(4, 48, 3).half(), alpha=0.0, temperature=2.0)
    alone, taught = make_loop(job, make_model()), make_loop(dataclasses.replace(job, distil=targets), make_model())
    assert alone.run_epoch()["loss"] == pytest.approx(taught.run_epoch()["loss"], rel=1e-6)


def test_gradients_are_clipped_to_the_norm(with_train: Callable[..., FitJob], make_model: MakeModel) -> None:
    def moved(grad_clip: float) -> float:
        job = with_train(optimizer="sgd", schedule="constant", warmup_ratio=0.0, lr=1.0, weight_decay=0.0, grad_clip=grad_clip, ema_decay=0.0)
        model = make_model()
        before = copy.deepcopy(model.state_dict())
        engine = TorchEngine(model, job.train)
        engine.backward(engine.forward(job.split_train.inputs_N[:8].float()).square().sum() * 100)
        engine.step(1.0)
        assert engine.grad_norm > 10
        return float(sum((model.state_dict()[name] - before[name]).square().sum() for name, _ in model.named_parameters())) ** 0.5

    assert moved(0.01) == pytest.approx(0.01 * 1.9, rel=1e-3)
    assert moved(0.0) > 10


def test_read_only_arrays_become_tensors_without_a_copy_or_a_warning() -> None:
    from foundry_ray.data import Split

    images_NCHW = np.zeros((2, 1, 3, 3), np.uint8)
    images_NCHW.flags.writeable = False
    split = TensorSplit.of(Split(inputs_N=images_NCHW, labels_N=np.arange(2)))
    assert split.inputs_N.data_ptr() == images_NCHW.ctypes.data
    assert split.num_rows == 2


class _Skipping(TorchEngine):
    """Leaves a step out where its gradient is not finite, as DeepSpeed does in every precision."""

    def step(self, lr: float) -> bool:
        if all(bool(param.grad.isfinite().all()) for param in self.model.parameters() if param.grad is not None):
            return super().step(lr)
        self.model.zero_grad()
        return False


def test_a_loss_that_is_no_number_ends_the_training_also_where_the_engine_leaves_its_step_out(job: FitJob, make_model: MakeModel) -> None:
    model = make_model()
    model[5].register_forward_hook(lambda linear, inputs, outputs: outputs * torch.nan if loop.step == 7 else None)
    loop = Loop(job, _Skipping(model, job.train), reporter=RecordingReporter(), clock=FakeClock())
    loop.run_epoch()
    with pytest.raises(Diverged, match="the loss at step 7 is nan"):
        loop.run_epoch()


def test_a_rank_that_fails_while_it_judges_takes_part_in_nothing_more(job: FitJob, make_model: MakeModel) -> None:
    """The others are still judging: a collective call of its own would meet theirs, and none would end."""
    refreshed: list[bool] = []

    class Engine(TorchEngine):
        def evaluate(self, inputs: Tensor) -> Tensor:
            refreshed.clear()
            raise torch.OutOfMemoryError("CUDA out of memory.")

        def refresh(self) -> None:
            refreshed.append(True)

    loop = Loop(job, Engine(make_model(), job.train), reporter=RecordingReporter(), clock=FakeClock())
    with pytest.raises(torch.OutOfMemoryError):
        loop.run_epoch()
    assert refreshed == []


@pytest.mark.parametrize(("micro", "largest"), [(1, 4), (2, 8), (None, 24)])
def test_smaller_passes_also_judge_fewer_images_at_once(job: FitJob, make_model: MakeModel, micro: int | None, largest: int) -> None:
    seen: list[int] = []

    class Engine(TorchEngine):
        def evaluate(self, inputs: Tensor) -> Tensor:
            seen.append(len(inputs))
            return super().evaluate(inputs)

    job = dataclasses.replace(job, micro_batch_size=micro)
    Loop(job, Engine(make_model(), job.train, accumulation=8 // (micro or 8)), reporter=RecordingReporter(), clock=FakeClock()).run_epoch()
    assert max(seen) == largest
    assert sum(seen) == 24


def test_a_rank_that_holds_no_weights_trains_and_saves_with_the_others(job: FitJob, make_model: MakeModel) -> None:
    """More ranks than a small model can be cut for: some hold nothing but padding."""

    class Engine(TorchEngine):
        def fragments(self) -> tuple[()]:
            return ()

    loop = Loop(job, Engine(make_model(), job.train), reporter=RecordingReporter(), clock=FakeClock())
    loop.run_epoch()
    assert loop.state().fragments == ()
