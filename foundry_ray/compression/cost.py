"""Parameters and multiply-accumulates of a model, layer by layer, by one forward pass that is watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from foundry_ray.compression.products import Call, count
from foundry_ray.compression.tracing import blank
from foundry_ray.models.modes import evaluating
from foundry_ray.types import Schema

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.hooks import RemovableHandle


class Cost(NamedTuple):
    """`num_params`: elements of all parameters. `num_macs`: multiply-accumulates of one sample in convolutions, linear and recurrent layers, and
    in the products of activations with each other, as attention has them; `products` says of which functions."""

    num_params: int
    num_macs: int


class LayerCost(NamedTuple):
    """Of one layer, called by its name in the model; `kind` is its class. A weight that layers share counts for the first of them."""

    name: str
    kind: str
    num_params: int
    num_macs: int


def cost(model: nn.Module, schema: Schema) -> Cost:
    """Count a model by one forward pass of one blank image or of token 0 throughout, in evaluation mode; the model is left as it was."""
    return Cost(num_params=sum(item.numel() for item in model.parameters()), num_macs=sum(_macs(model, schema).values()))


def layer_costs(model: nn.Module, schema: Schema) -> tuple[LayerCost, ...]:
    """The layers that have parameters of their own, or multiply activations, in the model's order; they sum up to `cost`."""
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
    at_work: list[nn.Module] = []
    handles = [handle for module in model.modules() for handle in _watch(module, at_work)]
    try:
        # without the fast path of nn.MultiheadAttention, which computes all at once and shows nothing
        with torch.no_grad(), evaluating(model), _functions(macs, at_work), _no_fast_path():
            model(blank(model, schema))
    finally:
        for handle in handles:
            handle.remove()
    return macs


@contextmanager
def _no_fast_path() -> Iterator[None]:
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _watch(module: nn.Module, at_work: list[nn.Module]) -> list[RemovableHandle]:
    """Who is at work."""

    def _begin(called: nn.Module, _inputs: object) -> None:
        at_work.append(called)

    def _end(_called: nn.Module, _inputs: object, _output: object) -> None:
        at_work.pop()

    return [module.register_forward_pre_hook(_begin), module.register_forward_hook(_end)]


def _functions(macs: dict[nn.Module, int], at_work: list[nn.Module]) -> AbstractContextManager[object]:
    """Counts the products of functions, for the innermost module that is at work."""
    from torch.overrides import TorchFunctionMode

    class _Counting(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., object], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> object:
            result = func(*args, **(kwargs or {}))
            num_products = count(getattr(func, "__name__", ""), Call(args, kwargs or {}, result))
            if num_products and at_work:
                macs[at_work[-1]] = macs.get(at_work[-1], 0) + num_products
            return result

    return _Counting()
