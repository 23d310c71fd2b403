"""Importance: each criterion against its definition, worked out by hand on tiny models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from foundry_ray.compression import cost
from foundry_ray.compression.groups import Couplings
from foundry_ray.compression.importance import _gradients, importances
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.models.modes import evaluating
from foundry_ray.protocols import Given
from foundry_ray.types import ImageSchema

SCHEMA = ImageSchema(channels=1, height=2, width=3, dtype="uint8", classes=("a", "b"))


class Perceptron(nn.Module):
    """6 -> 4 -> 2."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.second(functional.relu(self.first(pixels.flatten(1) / 255)))


class Normed(nn.Module):
    """A convolution with a batch norm, and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.plain = nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(functional.relu(self.plain(functional.relu(self.norm(self.conv(pixels))))).mean((2, 3)))


def rows(num_rows: int) -> Given:
    generator = np.random.default_rng(0)
    inputs, labels = generator.integers(0, 256, (num_rows, 1, 2, 3), dtype=np.uint8), generator.integers(0, 2, num_rows)
    return Given(schema=SCHEMA, task="image_classification", inputs_N=inputs, labels_N=labels, seed=3)


def measured(model: nn.Module, criterion, given: Given | None = None) -> dict[str, torch.Tensor | None]:
    able = [coupling for coupling in Couplings(model, SCHEMA).found if not coupling.kept_because]
    found = importances(criterion, able, model, given or Given(schema=SCHEMA))
    return {coupling.name: value for coupling, value in zip(able, found, strict=True)}


@pytest.fixture
def perceptron() -> Perceptron:
    torch.manual_seed(0)
    return Perceptron()


def test_taylor_looks_at_rows_with_a_label_alone(perceptron):
    given = rows(64)
    is_known = np.arange(64) % 2 == 0
    some = replace(given, labels_N=np.where(is_known, given.labels_N, -1))
    known = replace(given, inputs_N=given.inputs_N[is_known], labels_N=given.labels_N[is_known])
    assert torch.equal(measured(perceptron, "taylor", some)["first"], measured(perceptron, "taylor", known)["first"])
    with pytest.raises(RecipeInfeasible, match="needs training rows with labels"):
        measured(perceptron, "taylor", replace(given, labels_N=np.full(64, -1)))


def test_each_module_keeps_its_mode(perceptron):
    """A frozen layer evaluates while the rest trains."""
    perceptron.train().second.eval()
    cost(perceptron, SCHEMA)
    list(_gradients(perceptron, rows(8), np.arange(8)))
    with evaluating(perceptron):
        assert not perceptron.first.training
    assert [module.training for module in perceptron.modules()] == [True, True, False]


@pytest.mark.parametrize(("criterion", "power"), [("l1", 1), ("l2", 2)])
def test_norms_are_the_mean_over_the_layers_that_make_and_read_a_channel(criterion, power, perceptron):
    made = perceptron.first.weight.detach().abs().pow(power).sum(1)
    read = perceptron.second.weight.detach().abs().pow(power).sum(0)
    expected = (made + read) / 2
    torch.testing.assert_close(measured(perceptron, criterion)["first"], expected / expected.mean())


def test_bn_scale_is_the_absolute_scale_relative_to_its_mean_and_says_nothing_without_a_norm():
    torch.manual_seed(0)
    model = Normed()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([1.0, -3.0, 0.0, 4.0]))
    found = measured(model, "bn_scale")
    torch.testing.assert_close(found["conv"], torch.tensor([0.5, 1.5, 0.0, 2.0]))
    assert found["plain"] is None


def test_taylor_is_the_squared_derivative_of_the_loss_by_a_gate_on_each_channel(perceptron):
    given = rows(40)
    order = np.sort(np.random.default_rng(given.seed).permutation(40))
    squares = []
    for batch in (order[:32], order[32:]):
        gate = torch.ones(4, requires_grad=True)
        hidden = functional.relu(perceptron.first(torch.from_numpy(given.inputs_N[batch]).float().flatten(1) / 255))
        loss = functional.cross_entropy(perceptron.second(hidden * gate), torch.from_numpy(given.labels_N[batch]))
        squares.append(torch.autograd.grad(loss, gate)[0].square())
    torch.testing.assert_close(measured(perceptron, "taylor", given)["first"], (squares[0] + squares[1]) / 2)
    assert all(parameter.grad is None for parameter in perceptron.parameters())


def test_random_is_another_order_for_another_seed_and_the_same_for_the_same(perceptron):
    first, again, other = (measured(perceptron, "random", Given(schema=SCHEMA, seed=seed))["first"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_hidden_unit_counts_for_all_its_gates():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.head(self.gru(pixels[:, 0] / 255)[0].mean(1))

    torch.manual_seed(0)
    model = Recurrent()
    gru = model.gru
    made = sum(weight.detach().reshape(3, 4, -1).square().sum((0, 2)) for weight in (gru.weight_ih_l0, gru.weight_hh_l0))
    expected = (made + model.head.weight.detach().square().sum(0)) / 2
    torch.testing.assert_close(measured(model, "l2")["gru"], expected / expected.mean())


@pytest.mark.parametrize(("criterion", "why"), [("taylor", "needs training rows with labels and their task"), ("bn_scale", "passes a batch norm")])
def test_a_criterion_without_what_it_needs_is_refused(criterion, why, perceptron):
    with pytest.raises(RecipeInfeasible, match=why):
        measured(perceptron, criterion)
