"""Parameters and multiply-accumulates of a model, layer by layer, counted on the layers that hold nearly all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from foundry_ray.compression.tracing import blank
from foundry_ray.types import Schema

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle


class Cost(NamedTuple):
    """`num_params`: elements of all parameters. `num_macs`: multiply-accumulates of one sample in convolutions, linear and recurrent layers, and
    in the products of activations with each other, as attention has them."""

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
    handles = [handle for module in model.modules() for handle in _watch(module, macs, at_work)]
    was_training = model.training
    try:
        # without the fast path of nn.MultiheadAttention, which computes all at once and shows nothing
        with torch.no_grad(), _functions(macs, at_work), _no_fast_path():
            model.eval()(blank(model, schema))
    finally:
        model.train(was_training)
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


def _watch(module: nn.Module, macs: dict[nn.Module, int], at_work: list[nn.Module]) -> list[RemovableHandle]:
    """Who is at work; and of convolutions one product per output element and element of the filter, of recurrent layers per step and weight."""
    from torch import nn

    def _begin(called: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
        at_work.append(called)

    def _end(called: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        at_work.pop()
        if isinstance(called, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            macs[called] = macs.get(called, 0) + output.numel() * math.prod(called.weight.shape[1:])
        if isinstance(called, nn.RNNBase):
            num_steps = inputs[0].numel() // inputs[0].shape[-1]
            weights = sum(weight.numel() for weight in called.parameters() if weight.dim() == 2)
            macs[called] = macs.get(called, 0) + num_steps * weights

    return [module.register_forward_pre_hook(_begin), module.register_forward_hook(_end)]


def _functions(macs: dict[nn.Module, int], at_work: list[nn.Module]) -> AbstractContextManager[object]:
    """Counts the products of functions, for the innermost module that is at work."""
    from torch.overrides import TorchFunctionMode

    class _Counting(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., object], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> object:
            result = func(*args, **(kwargs or {}))
            count = _PRODUCTS.get(getattr(func, "__name__", ""))
            if count is not None and at_work:
                macs[at_work[-1]] = macs.get(at_work[-1], 0) + count(*args[:3], result)
            return result

    return _Counting()


def _linear(x: Tensor, weight: Tensor, *rest: Tensor) -> int:
    return x.numel() * weight.shape[0]


def _matmul(left: Tensor, right: Tensor, *rest: Tensor) -> int:
    return rest[-1].numel() * left.shape[-1]


def _attention(query: Tensor, key: Tensor, value: Tensor, result: Tensor) -> int:
    """q k^T, and its softmax times v; query (..., T, d), key (..., S, d)."""
    return query.numel() * key.shape[-2] + result.numel() * key.shape[-2]


def _multi_head(query: Tensor, key: Tensor, value: Tensor, result: object) -> int:
    """torch's own attention, which computes in one function: four projections to the width E of query (T, B, E), and the products."""
    return query.shape[-1] * (2 * query.numel() + key.numel() + value.numel()) + 2 * query.numel() * key.shape[0]


_PRODUCTS: dict[str, Callable[..., int]] = {
    "linear": _linear,
    "matmul": _matmul,
    "__matmul__": _matmul,
    "bmm": _matmul,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head,
}
