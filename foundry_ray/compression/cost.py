"""Parameters and multiply-accumulates of a model, counted on the layers that hold nearly all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from foundry_ray.types import Schema

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle


class Cost(NamedTuple):
    """`num_params`: elements of all parameters. `num_macs`: multiply-accumulates of one sample in convolutions and linear layers."""

    num_params: int
    num_macs: int


def cost(model: nn.Module, schema: Schema) -> Cost:
    """Count a model by one forward pass of one blank image or of token 0 throughout, in evaluation mode; the model is left as it was.

    Products of activations with each other, as in attention, are not counted.
    """
    import torch

    macs: list[int] = []
    handles = [handle for module in model.modules() for handle in _watch(module, macs)]
    was_training = model.training
    parameter = next(model.parameters())
    try:
        with torch.no_grad():
            dtype = parameter.dtype if schema.kind == "images" else torch.int64
            model.eval()(torch.zeros((1, *schema.shape), device=parameter.device, dtype=dtype))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return Cost(num_params=sum(item.numel() for item in model.parameters()), num_macs=sum(macs))


def _watch(module: nn.Module, macs: list[int]) -> list[RemovableHandle]:
    """One product per output element and per element of the filter that makes it."""
    from torch import nn

    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
        return []
    per_output = math.prod(module.weight.shape[1:])

    def _count(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        macs.append(output.numel() * per_output)

    return [module.register_forward_hook(_count)]
