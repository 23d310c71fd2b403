"""Activation checkpointing: which modules are blocks, that nothing else changes, and that something is saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from foundry_ray.training.activations import checkpoint_activations, repeated_blocks


class Block(nn.Module):
    """A linear layer, a norm with statistics, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, hidden_BC: Tensor, *, factor: float = 1.0) -> Tensor:
        result: Tensor = hidden_BC + factor * self.dropout(self.norm(self.linear(hidden_BC)).relu())
        return result


class Stack(nn.Module):
    """Three blocks in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block(), Block()])
        self.head = nn.Linear(4, 2)

    def forward(self, inputs_BC: Tensor) -> Tensor:
        for block in self.blocks:
            inputs_BC = block(inputs_BC, factor=0.5)
        logits: Tensor = self.head(inputs_BC)
        return logits


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(1)
    inputs_BC = torch.randn(5, 4)
    for _ in range(2):
        model(inputs_BC).square().mean().backward()
    return {name: param.grad for name, param in model.named_parameters() if param.grad is not None}


def _num_saved(model: nn.Module) -> int:
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.randn(100, 4))
    return sum(sizes)


def test_gradients_statistics_and_names_stay_as_they_are() -> None:
    plain = Stack()
    recomputed = copy.deepcopy(plain)
    assert checkpoint_activations(recomputed) == 3
    before, after = _gradients(plain), _gradients(recomputed)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(one, other) for one, other in zip(plain.state_dict().values(), recomputed.state_dict().values(), strict=True))
    assert list(plain.state_dict()) == list(recomputed.state_dict())


def test_far_less_is_kept_for_the_backward_pass() -> None:
    plain, recomputed = Stack(), Stack()
    checkpoint_activations(recomputed)
    assert _num_saved(recomputed) < 0.5 * _num_saved(plain)


def test_a_copy_of_the_model_recomputes_its_own_blocks() -> None:
    model = Stack()
    checkpoint_activations(model)
    copied = copy.deepcopy(model)
    nn.init.zeros_(copied.head.weight)
    nn.init.zeros_(copied.blocks[0].linear.weight)
    copied(torch.randn(5, 4)).sum().backward()
    assert model.blocks[0].linear.weight.grad is None


@pytest.mark.parametrize(
    ("model", "num_blocks"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), 0),
        (nn.Sequential(nn.Sequential(Block(), Block()), nn.Sequential(Block())), 3),
        (nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.ReLU())), 2),
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2), 2, enable_nested_tensor=False), 2),
    ],
    ids=["layers", "stages of blocks", "lists of layers", "transformer"],
)
def test_blocks_are_what_a_model_repeats(model: nn.Module, num_blocks: int) -> None:
    assert len(repeated_blocks(model)) == num_blocks
