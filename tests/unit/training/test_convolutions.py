"""Strided 1x1 convolutions over few channels: the kernel that breaks the heap is never called, and nothing else changes.

The kernel itself is not run here: float64 is beyond it, and elsewhere only calls are looked at.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from foundry_ray import models
from foundry_ray.compression.cost import cost
from foundry_ray.compression.export import to_onnx
from foundry_ray.config import TrainConfig
from foundry_ray.schemas import ImageSchema
from foundry_ray.training.convolutions import avoid_unsound_kernel
from foundry_ray.training.engine import TorchEngine

SCHEMA = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("a", "b", "c"))


class Backward(TorchDispatchMode):
    """Notes (channels in, side of the kernel, stride) of each convolution in a backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.seen.append((args[2].shape[1], args[2].shape[2], args[4][0]))
        return func(*args, **(kwargs or {}))


def small_resnet() -> nn.Module:
    torch.manual_seed(0)
    return models.get("resnet").build(SCHEMA, {"width": 8, "depth": 1})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_gradient_of_a_thin_model_comes_from_a_strided_1x1_convolution(precision: str) -> None:
    engine = TorchEngine(small_resnet(), TrainConfig.model_validate({"precision": precision}))
    with Backward() as backward:
        engine.backward(engine.forward(torch.rand(3, 1, 8, 8)).sum())
    assert (8, 1, 1) in backward.seen
    assert (16, 1, 2) in backward.seen
    assert (8, 1, 2) not in backward.seen


@pytest.mark.parametrize(("size", "stride"), [((6, 6), 2), ((7, 5), 2), ((7, 8), 3), ((6, 6), (1, 2))])
def test_outputs_and_gradients_are_those_of_the_plain_convolution(size: tuple[int, int], stride: Any) -> None:
    plain = nn.Conv2d(4, 6, 1, stride=stride).double()
    guarded = copy.deepcopy(plain)
    avoid_unsound_kernel(guarded, "cpu")
    assert "forward" in vars(guarded)
    assert list(guarded.state_dict()) == list(plain.state_dict())
    results: list[tuple[Tensor, ...]] = []
    for conv in (plain, guarded):
        inputs = torch.rand(3, 4, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
        outputs = conv(inputs)
        results.append((outputs, *torch.autograd.grad(outputs.square().sum(), (inputs, *conv.parameters()))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 4, 1, stride=2),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 1, stride=2, groups=2),
        nn.Conv2d(4, 4, 1, stride=2, padding=1),
    ],
)
def test_all_other_convolutions_are_left_alone(conv: nn.Conv2d) -> None:
    avoid_unsound_kernel(conv, "cpu")
    assert "forward" not in vars(conv)


def test_a_gpu_has_no_such_kernel() -> None:
    conv = nn.Conv2d(4, 4, 1, stride=2)
    avoid_unsound_kernel(conv, "cuda:0")
    assert "forward" not in vars(conv)


def test_a_trained_thin_model_is_counted_and_exported_as_before() -> None:
    model = small_resnet()
    before = cost(model, SCHEMA), to_onnx(model, SCHEMA)
    avoid_unsound_kernel(model, "cpu")
    assert (cost(model, SCHEMA), to_onnx(model, SCHEMA)) == before


def test_a_copy_computes_with_its_own_weights() -> None:
    conv = nn.Conv2d(4, 4, 1, stride=2, bias=False)
    avoid_unsound_kernel(conv, "cpu")
    clone = copy.deepcopy(conv)
    nn.init.zeros_(clone.weight)
    assert clone(torch.ones(1, 4, 4, 4)).abs().sum() == 0
    assert conv(torch.ones(1, 4, 4, 4)).abs().sum() > 0
