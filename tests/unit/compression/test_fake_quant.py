"""Training for int8: what is rounded in training is what the file rounds, gradients pass, and a resumed training goes on bit for bit."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from foundry_ray import models, tasks
from foundry_ray.compression import aids, apply_recipe, effective, recipe_from_params, served, simulate, to_onnx
from foundry_ray.compression.fake_quant import attach, detached, plan
from foundry_ray.compression.grids import grid_of
from foundry_ray.compression.integers import per_channel
from foundry_ray.compression.rounding import rounded_activation, rounded_rows, rounded_weight
from foundry_ray.config import AdversarialConfig, TrainConfig
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.inference import open_runtime
from foundry_ray.protocols import Given
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.checkpoint.bytes import from_bytes, to_bytes
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.job import OwnAverage
from foundry_ray.training.loop import FitJob, Loop, TensorSplit
from foundry_ray.types import TokenSchema

from .conftest import built

TEXT = TokenSchema(length=8, vocab_size=40, classes=("a", "b", "c", "d"))
QAT = {"weight_bits": 8, "quantize.qat": True, "quantize.qat_from": 0.5}
PARITY = 0.02
"""Of the logit range: training and file may round a number that lies between two steps to different sides, each by a step of some activation."""


def recipe(**params):
    return recipe_from_params({**QAT, **params})[1]


def simulated(model, schema, pixels, *, kept=(), batches=4):
    """A copy that has seen some batches in training mode while int8 was simulated; in eval mode."""
    model = copy.deepcopy(model).train()
    ranges = attach(model, plan(model, schema, kept))
    ranges.is_on = True
    with torch.no_grad():
        for _ in range(batches):
            model(pixels)
    return model.eval()


def loop_of(images, model, schema, *, epochs=4, ema_decay=0.5, adversarial=None, distil=None):
    train = TrainConfig(epochs=epochs, batch_size=32, lr=1e-3, precision="fp32", ema_decay=ema_decay, adversarial=adversarial)
    split = TensorSplit(inputs_N=torch.from_numpy(images[:64].copy()), labels_N=torch.arange(64) % 4)
    given = Given(schema=schema, task="image_classification", inputs_N=images, labels_N=np.arange(len(images)) % 4)
    chosen = recipe()
    job = FitJob(
        train=train,
        task=tasks.get("image_classification"),
        split_train=split,
        split_val=split,
        eval_transform=lambda made: simulate(made, images[:32], chosen, given=given),
        aids=aids(chosen, given),
        distil=distil,
    )
    return Loop(job, TorchEngine(model, train), reporter=RecordingReporter(), clock=FakeClock())


def test_a_range_gives_training_the_grid_that_it_gives_the_file():
    for low, high in ((-1.0, 3.0), (0.0, 6.3), (0.2, 5.0), (-4.0, -1.0), (0.0, 0.0)):
        grid = grid_of(low, high)
        values = torch.linspace(-6, 8, 1001)
        expected = (torch.clamp(torch.round(values / grid.scale) + grid.zero_point, 0, 255) - grid.zero_point) * grid.scale
        rounded = rounded_activation(values, torch.tensor(low), torch.tensor(high))
        assert (rounded - expected).abs().max() <= grid.scale * 1.01
        assert ((rounded - expected).abs() > 1e-5).float().mean() < 0.01


def test_weights_are_rounded_as_they_are_stored_and_gradients_pass_straight_through():
    weight = torch.randn(6, 3, 3, 3, requires_grad=True)
    values, scale = per_channel(weight.detach().numpy(), 0)
    rounded = rounded_weight(weight)
    np.testing.assert_allclose(rounded.detach().numpy(), values * scale, atol=1e-6)
    rounded.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))
    rows = torch.randn(5, 8, requires_grad=True)
    rounded_rows(rows).sum().backward()
    assert torch.equal(rows.grad, torch.ones_like(rows))


def test_gradients_vanish_beyond_a_range():
    values = torch.tensor([-3.0, 0.5, 9.0], requires_grad=True)
    rounded_activation(values, torch.tensor(-1.0), torch.tensor(2.0)).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("family", ["resnet", "cnn"])
def test_what_is_simulated_answers_as_the_file_that_takes_its_ranges(family, trained, images, schema):
    pixels = torch.from_numpy(images[:64]).float()
    model = simulated(trained if family == "resnet" else built(images, family=family), schema, pixels)
    with torch.no_grad():
        answers = model(pixels).numpy()
    shipped = open_runtime(served(model, recipe(), schema, images[:1])).run(images[:64])
    assert np.abs(answers - shipped).max() / np.ptp(shipped) < PARITY
    assert family != "resnet" or (answers.argmax(1) == shipped.argmax(1)).mean() >= 0.99


@pytest.mark.parametrize("family", ["transformer", "mlp", "rnn"])
def test_models_of_tokens_answer_as_their_files_too(family):
    size = {"heads": 2} if family == "transformer" else {}
    torch.manual_seed(0)
    model = models.get(family).build(TEXT, {"width": 16, "depth": 1, **size})
    tokens = torch.randint(1, 40, (64, 8), generator=torch.Generator().manual_seed(0))
    made = simulated(model, TEXT, tokens)
    with torch.no_grad():
        trained, plain = made(tokens).numpy(), model.eval()(tokens).numpy()
    shipped = open_runtime(served(made, recipe(), TEXT, tokens[:1].numpy())).run(tokens.numpy())
    assert np.abs(trained - shipped).max() / np.ptp(shipped) < PARITY
    assert np.abs(trained - plain).max() > 0


def test_positions_are_rounded_in_training_as_the_file_rounds_them():
    text = TokenSchema(length=64, vocab_size=40, classes=("a", "b"))
    torch.manual_seed(0)
    model = models.get("transformer").build(text, {"width": 16, "depth": 1, "heads": 2})
    with torch.no_grad():
        model.positions.mul_(torch.linspace(1, 400, 16))  # a row of such a spread loses most of its small numbers
    tokens = torch.randint(1, 40, (16, 64), generator=torch.Generator().manual_seed(0))
    made = simulated(model, text, tokens)
    with torch.no_grad():
        answers = made(tokens).numpy()
        made.positions.copy_(rounded_rows(made.positions))
        again = made(tokens).numpy()
    shipped = open_runtime(served(made, recipe(), text, tokens[:1].numpy())).run(tokens.numpy())
    np.testing.assert_allclose(answers, again, rtol=1e-4, atol=1e-5)
    assert np.abs(answers - shipped).max() / np.ptp(shipped) < PARITY


def test_a_model_that_cannot_be_traced_is_simulated_layer_by_layer():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.hidden, self.head = nn.Embedding(40, 16), nn.Linear(16, 32), nn.Linear(32, 4)

        def forward(self, tokens):
            x = self.table(tokens if tokens.shape[0] > 0 else tokens + 1)
            return self.head(nn.functional.silu(self.hidden(x)).mean(1))

    torch.manual_seed(0)
    model, tokens = Text(), torch.randint(0, 40, (64, 8), generator=torch.Generator().manual_seed(0))
    made = simulated(model, TEXT, tokens)
    with torch.no_grad():
        trained = made(tokens).numpy()
    shipped = open_runtime(served(made, recipe(), TEXT, tokens[:1].numpy())).run(tokens.numpy())
    assert np.abs(trained - shipped).max() / np.ptp(shipped) < PARITY


def test_the_model_without_what_simulates_it_is_the_plain_one(images, schema):
    model = built(images)
    made = simulated(model, schema, torch.from_numpy(images[:8]).float())
    plain, learnt = detached(made)
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert models.describe(plain) == models.describe(model)
    assert learnt
    assert to_onnx(plain, schema)
    assert any(name.startswith("fake_quant.") for name in made.state_dict()), "it is left unchanged"
    assert detached(model) == (model, {})


def test_int8_is_simulated_from_the_given_share_of_the_training_on(images, schema):
    model = built(images)
    loop = loop_of(images, model, schema)
    loop.run_epoch()
    assert detached(model)[1] == {}
    loop.run_epoch()
    assert detached(model)[1] == {}
    loop.run_epoch()
    assert detached(model)[1]


def test_an_average_of_ranges_forgets_the_steps_before_they_began(images, schema):
    model = simulated(built(images), schema, torch.from_numpy(images[:8]).float())
    averaged = copy.deepcopy(model)
    for name, buffer in averaged.named_buffers():
        if name.startswith("fake_quant."):
            buffer.mul_(0.3)  # what an average has after some steps: the part before is zero
    live, found = detached(model)[1], detached(averaged)[1]
    assert {name: pytest.approx(edges, rel=1e-5) for name, edges in live.items()} == found


def test_ranges_move_with_what_goes_by(images, schema):
    pixels = torch.from_numpy(images[:8]).float()
    model = copy.deepcopy(built(images)).train()
    ranges = attach(model, plan(model, schema, ()))
    ranges.is_on = True
    values = torch.linspace(-1, 3, 9)
    name = ranges.names[-1]
    for edges, factor in (((-1.0, 3.0), 1.0), ((-1.05, 3.15), 2.0)):
        ranges.rounded(name, values * factor)
        assert ranges.learnt()[name] == pytest.approx(edges, rel=1e-5)
    ranges.eval().rounded(name, values * 100)
    assert ranges.learnt()[name] == pytest.approx((-1.05, 3.15), rel=1e-5)
    assert torch.isfinite(model(pixels)).all()


def test_filters_are_rounded_alike_before_and_after_a_batch_norm_is_folded():
    weight, factor = torch.randn(6, 3, 3, 3), torch.tensor([0.5, -2.0, 1e-3, 7.0, 1.0, -0.1])[:, None, None, None]
    torch.testing.assert_close(rounded_weight(weight * factor), rounded_weight(weight) * factor)


@pytest.mark.parametrize("more", [{}, {"adversarial": AdversarialConfig(steps=2), "distil": OwnAverage(alpha=0.5, temperature=2.0)}])
def test_a_resumed_training_goes_on_bit_for_bit(images, schema, more):
    unbroken, first, second = (loop_of(images, built(images), schema, **more) for _ in range(3))
    for _ in range(4):
        unbroken.run_epoch()
    for _ in range(3):
        first.run_epoch()
    second.restored(from_bytes(to_bytes(first.state()), second.state()))
    second.run_epoch()
    expected, actual = unbroken.eval_model().state_dict(), second.eval_model().state_dict()
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    assert unbroken.curve[-1]["val_loss"] == second.curve[-1]["val_loss"]


def test_what_is_judged_is_the_file_that_ships(images, schema):
    loop = loop_of(images, built(images), schema)
    while not loop.is_done:
        loop.run_epoch()
    model = loop.eval_model()
    judged = simulate(model, images[:32], recipe())(torch.from_numpy(images).float()).numpy()
    np.testing.assert_array_equal(judged, open_runtime(served(model, recipe(), schema, images[:32])).run(images))
    assert loop.curve[-1]["accuracy"] == (judged[:64].argmax(1) == np.arange(64) % 4).mean()


def test_hooks_of_blocks_see_what_goes_by(images, schema):
    pixels = torch.from_numpy(images[:4]).float()
    model = simulated(built(images), schema, pixels)
    seen = []
    handle = model.blocks[0].register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    model(pixels)
    handle.remove()
    assert [tuple(output.shape) for output in seen] == [(4, 8, 16, 16)]


@pytest.mark.parametrize("share", [0.25, 0.0])
def test_an_average_that_has_not_forgotten_the_time_before_int8_answers_all_the_same(images, schema, share):
    pixels = torch.from_numpy(images[:16]).float()
    model = simulated(built(images), schema, pixels)
    with torch.no_grad():
        rounded = model(pixels)
        for buffer in model.fake_quant.buffers():  # as averaged over steps of which the first ones saw no range: they are zeros
            buffer.mul_(share)
        averaged = model(pixels)
        model.fake_quant.is_on = False
        expected = rounded if share else model(pixels)
    assert (averaged - expected).abs().max() <= (1e-6 if share else PARITY) * (expected.max() - expected.min())


def test_a_kept_layer_is_trained_in_fp32(images, schema):
    model = built(images)
    assert plan(model, schema, ("head",)).modules.keys() == plan(model, schema, ()).modules.keys() - {"head"}


def test_what_cannot_be_simulated_is_refused_before_training(images, schema):
    class Gelu(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 4)

        def forward(self, x):
            return self.head(nn.functional.silu(self.conv(x)).mean((2, 3)))

    with pytest.raises(RecipeInfeasible, match=r"the Conv of conv cannot be simulated .* cannot be traced"):
        apply_recipe(Gelu(), recipe(), Given(schema=schema), family="")


def test_training_for_int8_makes_another_student(images):
    model = built(images)
    assert effective(model, recipe()) != effective(model, recipe_from_params({"weight_bits": 8})[1])
