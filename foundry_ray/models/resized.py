"""What was cut out of a model that a factory makes, as JSON: enough to cut the factory's next one alike, without looking for what is coupled.

That is layers left out of lists, attention that may have fewer heads, shapes of tensors, and the numbers that modules remember of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from foundry_ray.models.slim_attention import SlimAttention, with_slim_attention
from foundry_ray.types import Json

_LEFT_OUT = "left_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """How a model differs from what its factory gives.

    Attributes:
        left_out: Layers that are gone, by the names that they had.
        slim: Attentions that are `SlimAttention` now.
        shapes: Of tensors whose shape is another.
        numbers: Of each module, attributes that are whole numbers, or several, and are others.
    """

    left_out: tuple[str, ...] = ()
    slim: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    numbers: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)


def leave_out(model: nn.Module, names: Sequence[str]) -> None:
    """Take layers out of the lists that they stand in, and remember them on the model."""
    for name in sorted(names, key=lambda name: -int(name.rpartition(".")[2])):
        holder, _, index = name.rpartition(".")
        layers = model.get_submodule(holder)
        assert isinstance(layers, (nn.ModuleList, nn.Sequential)), "layers stand in lists"
        del layers[int(index)]
    setattr(model, _LEFT_OUT, (*getattr(model, _LEFT_OUT, ()), *names))


def cuts_of(model: nn.Module, fresh: nn.Module) -> Cuts:
    """How `model` differs from `fresh`, which is changed on the way."""
    left_out = tuple(getattr(model, _LEFT_OUT, ()))
    leave_out(fresh, left_out)
    modules = dict(fresh.named_modules())
    slim = tuple(
        name for name, module in model.named_modules() if isinstance(module, SlimAttention) and type(modules.get(name)) is nn.MultiheadAttention
    )
    with_slim_attention(fresh, slim)
    before = {name: tensor.shape for name, tensor in fresh.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if before.get(name) != tensor.shape}
    modules = dict(fresh.named_modules())
    numbers = {name: _other_numbers(module, modules[name]) for name, module in model.named_modules() if name in modules}
    return Cuts(left_out=left_out, slim=slim, shapes=shapes, numbers={name: found for name, found in numbers.items() if found})


def carry_out(model: nn.Module, cuts: Cuts) -> None:
    """Cut a factory's model. Its weights are no more what they were; shared ones stay shared. Raises what a name that is not there raises."""
    leave_out(model, cuts.left_out)
    with_slim_attention(model, cuts.slim)
    made: dict[int, Tensor] = {}
    for name, shape in cuts.shapes.items():
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        old = getattr(module, attribute)
        empty = made.setdefault(id(old), _empty(old, shape))
        setattr(module, attribute, empty)
    for name, values in cuts.numbers.items():
        for attribute, value in values.items():
            setattr(model.get_submodule(name), attribute, tuple(value) if isinstance(value, list) else value)


def _empty(old: Tensor, shape: Sequence[int]) -> Tensor:
    empty = torch.zeros(tuple(shape), dtype=old.dtype, device=old.device)
    return nn.Parameter(empty, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else empty


def _other_numbers(module: nn.Module, before: nn.Module) -> dict[str, Json]:
    old = dict(_numbers(before))
    return {name: value for name, value in _numbers(module) if name in old and old[name] != value}


def _numbers(module: nn.Module) -> Iterator[tuple[str, Json]]:
    for name, value in vars(module).items():
        if isinstance(value, tuple) and value and all(type(item) is int for item in value):
            yield name, list(value)
        elif type(value) is int:
            yield name, value
