"""A model as a graph of operators, ready for inference: evaluation mode, fp32 on CPU, batch norms folded into their convolutions."""

from __future__ import annotations

import copy
import operator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import fx, nn


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
    from torch import fx, nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    norm = modules.get(str(node.target)) if node.op == "call_module" else None
    source = node.args[0] if node.args else None
    if not isinstance(norm, nn.BatchNorm2d) or not isinstance(source, fx.Node) or source.op != "call_module":
        return
    conv = modules[str(source.target)]
    if not isinstance(conv, nn.Conv2d) or len(source.users) != 1 or norm.running_mean is None:
        return
    fused = fuse_conv_bn_eval(conv, norm)
    traced.set_submodule(str(source.target), fused)
    modules[str(source.target)] = fused
    node.replace_all_uses_with(source)
    traced.graph.erase_node(node)


def operator_name(node: fx.Node) -> str:
    """The bare name of what a function or method node calls."""
    if node.op == "call_method":
        return str(node.target).rstrip("_")
    name = getattr(node.target, "__name__", "")
    aliases = {operator.truediv: "div", operator.add: "add", operator.iadd: "add", operator.sub: "sub", operator.mul: "mul"}
    return aliases.get(node.target, name.rstrip("_")) if callable(node.target) else name
