"""Parameters and multiply-accumulates of a model, layer by layer, counted on the layers that hold nearly all of them."""

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


class LayerCost(NamedTuple):
    """Of one layer, called by its name in the model; `kind` is its class. A weight that layers share counts for the first of them."""

    name: str
    kind: str
    num_params: int
    num_macs: int


def cost(model: nn.Module, schema: Schema) -> Cost:
    """Count a model by one forward pass of one blank image or of token 0 throughout, in evaluation mode; the model is left as it was.

    Products of activations with each other, as in attention, are not counted.
    """
    return Cost(num_params=sum(item.numel() for item in model.parameters()), num_macs=sum(_macs(model, schema).values()))


def layer_costs(model: nn.Module, schema: Schema) -> tuple[LayerCost, ...]:
    """The layers that have parameters of their own, in the model's order; they sum up to `cost`."""
    macs = _macs(model, schema)
    counted: set[int] = set()
    layers = []
    for name, module in model.named_modules():
        own = [parameter for parameter in module.parameters(recurse=False) if id(parameter) not in counted]
        counted.update(id(parameter) for parameter in own)
        num_params = sum(parameter.numel() for parameter in own)
        if num_params or module in macs:
            layers.append(LayerCost(name=name, kind=type(module).__name__, num_params=num_params, num_macs=macs.get(module, 0)))
    return tuple(layers)


def _macs(model: nn.Module, schema: Schema) -> dict[nn.Module, int]:
    """Of each layer that multiplies, all its calls together."""
    import torch

    macs: dict[nn.Module, int] = {}
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
    return macs


def _watch(module: nn.Module, macs: dict[nn.Module, int]) -> list[RemovableHandle]:
    """One product per output element and per element of the filter that makes it."""
    from torch import nn

    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
        return []
    per_output = math.prod(module.weight.shape[1:])

    def _count(called: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        macs[called] = macs.get(called, 0) + output.numel() * per_output

    return [module.register_forward_hook(_count)]
