"""Leaving whole layers out: residual blocks that change least what passes through them.

A layer can go where it stands in a list or a sequence of layers, gives what it reads in shape, and adds to it: some path from its input to its
output meets no weights. Its influence is 1 - cos(input, output), the mean over training rows (block influence, arXiv 2403.03853, equation 1,
with a whole sample in the place of a token).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from foundry_ray.compression.groups import requiring_grad
from foundry_ray.compression.prune_params import Criterion
from foundry_ray.compression.recurrent_cuts import RECURRENT, opaque_recurrence
from foundry_ray.compression.rows import batches, drawn
from foundry_ray.compression.tracing import blank
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.models import resized
from foundry_ray.models.modes import evaluating
from foundry_ray.protocols import Given
from foundry_ray.types import Schema

_ROWS = 128
_BATCH = 32
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention, *RECURRENT)
_PRODUCTS = ("convolution", "addmm", "mmbackward", "bmm", "linear", "opaque", "scaleddot", "embedding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer that can be left out: its list, by name, and its place in it."""

    holder: str
    index: int

    @property
    def name(self) -> str:
        return f"{self.holder}.{self.index}"


def removable_layers(model: nn.Module, schema: Schema) -> list[Layer]:
    """The residual layers of `model`, in its order; where such layers hold others, the innermost."""
    candidates = [
        Layer(holder=name, index=index)
        for name, holder in model.named_modules()
        if isinstance(holder, (nn.ModuleList, nn.Sequential)) and len(holder) > 1
        for index, child in enumerate(holder)
        if any(isinstance(module, _WEIGHTED) for module in child.modules())
    ]
    residual = {layer.name for layer in candidates if _is_residual(model, layer, schema)}
    return [layer for layer in candidates if layer.name in residual and not any(name.startswith(f"{layer.name}.") for name in residual)]


def influences(model: nn.Module, layers: Sequence[Layer], given: Given) -> list[float]:
    """The influence of each layer, in [0, 2]. Raises RecipeInfeasible where there are no rows."""
    rows_N = drawn(given, num_rows=_ROWS)
    if len(rows_N) == 0:
        reason = "layers_ratio asks which layers change least on training rows, but got no rows"
        raise RecipeInfeasible(f"prune: {reason}.", hint="give rows, or leave `layers_ratio` out.", reason=reason)
    sums = dict.fromkeys((layer.name for layer in layers), 0.0)

    def _watch(name: str) -> Any:
        def _add(_module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before, after = _first_tensor((inputs, kwargs)), _first_tensor(output)
            assert before is not None, "found residual with a tensor"
            assert after is not None, "found residual with a tensor"
            sums[name] += float((1 - functional.cosine_similarity(before.float().flatten(1), after.float().flatten(1))).sum())

        return _add

    with ExitStack() as stack, torch.no_grad(), evaluating(model):
        for layer in layers:
            handle = model.get_submodule(layer.name).register_forward_hook(_watch(layer.name), with_kwargs=True)
            stack.callback(handle.remove)
        for inputs, _ in batches(model, given, rows_N, batch_size=_BATCH):
            model(inputs)
    return [sums[layer.name] / len(rows_N) for layer in layers]


def leave_out(model: nn.Module, ratio: float, given: Given, *, criterion: Criterion) -> None:
    """Take the least influential layers out of `model`, or any under `random`; each list keeps one layer.

    Raises:
        RecipeInfeasible: No layer can go, or there are no rows.
    """
    layers = removable_layers(model, given.schema)
    if not layers:
        reason = f"layers_ratio is {ratio:g}, but {type(model).__name__} has no residual layer in a list of layers that could be left out"
        raise RecipeInfeasible(f"prune: {reason}.", hint="leave `layers_ratio` out.", reason=reason)
    if criterion == "random":
        values = torch.rand(len(layers), generator=torch.Generator().manual_seed(given.seed)).tolist()
    else:
        values = influences(model, layers, given)
    left = {layer.holder: len(list(model.get_submodule(layer.holder).children())) for layer in layers}
    gone: list[Layer] = []
    for _, layer in sorted(zip(values, layers, strict=True), key=lambda pair: pair[0]):
        if len(gone) < int(ratio * len(layers) + 0.5) and left[layer.holder] > 1:
            left[layer.holder] -= 1
            gone.append(layer)
    resized.leave_out(model, [layer.name for layer in gone])


def _is_residual(model: nn.Module, layer: Layer, schema: Schema) -> bool:
    """Whether some path from the layer's input to its output of the same shape goes through no product with weights."""
    seen: list[tuple[Tensor, Tensor]] = []
    watched = _watched(model.get_submodule(layer.name), seen)
    with torch.enable_grad(), evaluating(model), requiring_grad(model), opaque_recurrence(model), watched:
        model(blank(model, schema))
    if len(seen) != 1 or seen[0][0].shape != seen[0][1].shape:
        return False
    return _reaches(seen[0][1].grad_fn, seen[0][0].grad_fn)


@contextmanager
def _watched(module: nn.Module, seen: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Keeps what goes into `module`, marked in the autograd graph, and what comes out."""
    marked: list[Tensor] = []

    def _mark(_module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not inputs or not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
            return None
        marked.append(inputs[0] + torch.zeros((), device=inputs[0].device, dtype=inputs[0].dtype, requires_grad=True))
        return (marked[-1], *inputs[1:]), kwargs

    def _keep(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        result = _first_tensor(output)
        if marked and result is not None:
            seen.append((marked[-1], result))

    with ExitStack() as stack:
        stack.callback(module.register_forward_pre_hook(_mark, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(_keep).remove)
        yield


def _reaches(start: Any, goal: Any) -> bool:
    """Whether the autograd graph leads from one node to another past all products with weights."""
    waiting, visited = [start], set()
    while waiting:
        node = waiting.pop()
        if node is goal:
            return True
        if node is None or node in visited or any(part in node.name().lower() for part in _PRODUCTS):
            continue
        visited.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False


def _first_tensor(value: Any) -> Tensor | None:
    """The first tensor in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return next((found for found in map(_first_tensor, parts) if found is not None), None)
