"""A model as a graph of operators, ready for inference: evaluation mode, fp32 on CPU, batch norms folded into their convolutions."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

    from foundry_ray.types import Schema


def folded(model: nn.Module) -> fx.GraphModule | None:
    """A folded copy of `model`; None where its forward cannot be traced (data-dependent control flow).

    A batch norm is folded where it is the only reader of a convolution, which leaves the function unchanged:
    w' = w * gamma / sqrt(var + eps), b' = beta + (b - mean) * gamma / sqrt(var + eps).
    """
    import torch
    from torch import fx

    clone = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    try:
        traced = fx.symbolic_trace(clone)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError):
        return None
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        _fold(traced, modules, node)
    traced.graph.lint()
    traced.recompile()
    return traced


def _fold(traced: fx.GraphModule, modules: dict[str, nn.Module], node: fx.Node) -> None:
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    source = folds_into(node, modules)
    if source is None:
        return
    conv, norm = cast("nn.Conv2d", modules[str(source.target)]), cast("nn.BatchNorm2d", modules[str(node.target)])
    fused = fuse_conv_bn_eval(conv, norm)
    traced.set_submodule(str(source.target), fused)
    modules[str(source.target)] = fused
    node.replace_all_uses_with(source)
    traced.graph.erase_node(node)


def folds_into(node: fx.Node, modules: Mapping[str, nn.Module]) -> fx.Node | None:
    """The convolution that a node's batch norm is folded into; None where it is no batch norm, or cannot be."""
    from torch import fx, nn

    norm = modules.get(str(node.target)) if node.op == "call_module" else None
    source = node.args[0] if node.args else None
    if not isinstance(norm, nn.BatchNorm2d) or not isinstance(source, fx.Node) or source.op != "call_module":
        return None
    is_alone = isinstance(modules[str(source.target)], nn.Conv2d) and len(source.users) == 1
    return source if is_alone and norm.running_mean is not None else None


def blank(model: nn.Module, schema: Schema, *, num_rows: int = 1) -> Tensor:
    """Blank images, or token 0 throughout, where `model` is."""
    import torch

    like = next(model.parameters(), torch.zeros(()))
    return torch.zeros((num_rows, *schema.shape), device=like.device, dtype=like.dtype if schema.kind == "images" else torch.int64)


def note_shapes(traced: fx.GraphModule, schema: Schema) -> None:
    """Write the shape and the dtype that each node gives into its notes, by one pass of two blank rows."""
    import torch
    from torch import Tensor, fx

    class _Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                n.meta |= {"shape": tuple(value.shape), "dtype": value.dtype}
            return value

    with torch.inference_mode():
        _Shapes(traced).run(blank(traced, schema, num_rows=2))


def operator_name(node: fx.Node) -> str:
    """The bare name of what a function or method node calls."""
    if node.op == "call_method":
        return str(node.target).rstrip("_")
    name = getattr(node.target, "__name__", "")
    aliases = {operator.truediv: "div", operator.add: "add", operator.iadd: "add", operator.sub: "sub", operator.mul: "mul"}
    return aliases.get(node.target, name.rstrip("_")) if callable(node.target) else name
