"""A forward pass in which weights and activations are rounded: of a whole graph, or of one layer. Each stands in for a module's `forward`.

They refer to modules and never own them, so that a copy of a model is simulated by copies of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from foundry_ray.compression.rounding import rounded_rows, rounded_weight
from foundry_ray.compression.static_int8 import node_of
from foundry_ray.compression.tracing import folds_into
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.models.modes import evaluating

if TYPE_CHECKING:
    from collections.abc import Callable


class Rounds(Protocol):
    """Who knows the ranges."""

    is_on: bool
    names: tuple[str, ...]

    def rounded(self, name: str, values: Tensor) -> Tensor:
        """An activation as it would be stored."""


@dataclass(frozen=True, kw_only=True)
class TracedGraph:
    """A model's operators.

    Attributes:
        graph: In training mode.
        conv_of: Nodes of convolutions by those of the batch norms that are folded into them.
        made_by: Which modules, none of them a leaf, give the value of a node.
    """

    graph: fx.Graph
    conv_of: Mapping[str, str]
    made_by: Mapping[str, tuple[str, ...]]


class _Tracer(fx.Tracer):
    """Remembers whose output a value is: hooks of whole blocks are to see it."""

    def __init__(self) -> None:
        super().__init__()
        self.made_by: dict[str, tuple[str, ...]] = {}

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        path = self.path_of_module(m)
        if isinstance(output, fx.Proxy) and not self.is_leaf_module(m, path):
            self.made_by[output.node.name] = (*self.made_by.get(output.node.name, ()), path)
        return output


def graph_of(model: nn.Module, stored: Sequence[str]) -> TracedGraph:
    """Trace a model as it trains. Raises RecipeInfeasible where a stored tensor is not made then as it is when the model is shipped."""
    whats, wanted = [], {node_of(name) for name in stored}
    with evaluating(model):
        for mode in (False, True):
            tracer = _Tracer()
            graph = tracer.trace(model.train(mode))
            whats.append({node.name: str(node.target) for node in graph.nodes if node.name in wanted})
    if whats[0] != whats[1] or set(whats[0]) != wanted:
        message = "quantize: int8 cannot be simulated in training, because this model does other things in training than when it is shipped."
        raise RecipeInfeasible(message, hint="set `qat: false`.", reason="training differs")
    modules = dict(model.named_modules())
    folded = [(node, folds_into(node, modules)) for node in graph.nodes]
    pairs = [(norm, conv) for norm, conv in folded if conv is not None]
    return TracedGraph(
        graph=graph,
        conv_of={norm.name: conv.name for norm, conv in pairs},
        made_by=tracer.made_by,
    )


class GraphPass:
    """Runs a model's graph with every stored tensor and every int8 weight rounded, once `is_on`; the model itself before.

    Args:
        model: Whose forward this stands in for.
        traced: Its graph.
        ranges: Know how to round.
        weighted: Modules with int8 weights, and matrices that are added.
    """

    def __init__(self, model: nn.Module, traced: TracedGraph, ranges: Rounds, weighted: frozenset[str]) -> None:
        self.model, self.traced, self.ranges, self.weighted = model, traced, ranges, weighted

    def __call__(self, inputs: Tensor) -> Tensor:
        if not self.ranges.is_on:
            return cast(Tensor, type(self.model).forward(self.model, inputs))
        return cast(Tensor, _Interpreter(self).run(inputs))


class _Interpreter(fx.Interpreter):
    def __init__(self, owner: GraphPass) -> None:
        super().__init__(owner.model, graph=owner.traced.graph)
        self._owner = owner
        self._stored = {node_of(name): name for name in owner.ranges.names}
        self._folded = set(owner.traced.conv_of.values())

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "get_attr" and n.name in self._owner.weighted:
            value = rounded_rows(value)
        traced = self._owner.traced
        name = traced.conv_of.get(n.name, n.name)
        if name in self._stored and n.name not in self._folded:
            value = self._owner.ranges.rounded(self._stored[name], value)
        for path in traced.made_by.get(n.name, ()):
            module = self._owner.model.get_submodule(path)
            for hook in tuple(module._forward_hooks.values()):
                hook(module, (), value)
        return value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target not in self._owner.weighted:
            return super().call_module(target, args, kwargs)
        module = self._owner.model.get_submodule(target)
        if isinstance(module, nn.Embedding):
            return rounded_rows(module(*args, **kwargs))
        # A scale per output channel makes the same integers of filters before and after a batch norm is folded into them.
        weights = {name: rounded_weight(tensor) for name, tensor in module.named_parameters() if name.startswith("weight")}
        return torch.func.functional_call(module, weights, args, kwargs)


class LayerPass:
    """Runs one linear layer or table rounded, once `is_on`; the layer itself before.

    Args:
        module: Whose forward this stands in for.
        ranges: Know how to round.
        source: The name of the activation that it reads.
    """

    def __init__(self, module: nn.Module, ranges: Rounds, source: str) -> None:
        self.module, self.ranges, self.source = module, ranges, source

    def __call__(self, inputs: Tensor) -> Tensor:
        outputs_of = cast("Callable[[nn.Module, Tensor], Tensor]", type(self.module).forward)
        if not self.ranges.is_on:
            return outputs_of(self.module, inputs)
        if isinstance(self.module, nn.Embedding):
            return rounded_rows(outputs_of(self.module, inputs))
        linear = cast(nn.Linear, self.module)
        return functional.linear(self.ranges.rounded(self.source, inputs), rounded_weight(linear.weight), linear.bias)
