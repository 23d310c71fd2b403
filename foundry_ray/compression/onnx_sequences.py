"""The operators of sequences as ONNX nodes: embeddings, layer norms, attention, recurrent layers, and what moves dimensions about between them.

Importing this module adds its rules to those of `onnx_graph`. Shapes: B batch, T steps, H heads or units, d width of a head.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from foundry_ray.compression.onnx_graph import GraphWriter, Unsupported, dims_of, function_rule, module_rule, source_of

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

_GRU_ORDER = (1, 0, 2)  # torch has reset, update, new; ONNX update, reset, hidden
_LSTM_ORDER = (0, 3, 1, 2)  # torch has input, forget, cell, output; ONNX input, output, forget, cell


@module_rule("Embedding")
def _embedding(writer: GraphWriter, node: fx.Node, out: str, module: nn.Embedding) -> None:
    if module.max_norm is not None:
        raise Unsupported("an embedding with a largest norm")
    writer.emit("Gather", [writer.weight(f"{node.target}.weight", module.weight), source_of(node)], out, axis=0)


@module_rule("LayerNorm")
def _layer_norm(writer: GraphWriter, node: fx.Node, out: str, module: nn.LayerNorm) -> None:
    import torch

    if len(module.normalized_shape) != 1:
        raise Unsupported(f"a layer norm over {len(module.normalized_shape)} dimensions")
    weight = module.weight if module.weight is not None else torch.ones(module.normalized_shape)
    inputs = [source_of(node), writer.weight(f"{node.target}.weight", weight)]
    if module.bias is not None:
        inputs.append(writer.weight(f"{node.target}.bias", module.bias))
    writer.emit("LayerNormalization", inputs, out, axis=-1, epsilon=module.eps)


@module_rule("GELU")
def _gelu(writer: GraphWriter, node: fx.Node, out: str, module: nn.GELU) -> None:
    """x * (1 + erf(x / sqrt(2))) / 2, in the order of nodes that runtimes know as one operator; opset 18 has no Gelu."""
    if module.approximate != "none":
        raise Unsupported(f"a gelu by {module.approximate}")
    source = source_of(node)
    writer.emit("Div", [source, writer.operand(math.sqrt(2.0), f"{out}/root")], f"{out}/scaled")
    writer.emit("Erf", [f"{out}/scaled"], f"{out}/erf")
    writer.emit("Add", [f"{out}/erf", writer.operand(1.0, f"{out}/one")], f"{out}/sum")
    writer.emit("Mul", [source, f"{out}/sum"], f"{out}/product")
    writer.emit("Mul", [f"{out}/product", writer.operand(0.5, f"{out}/half")], out)


@module_rule("GRU", "LSTM")
def _recurrent(writer: GraphWriter, node: fx.Node, out: str, module: nn.GRU | nn.LSTM) -> None:
    """The outputs of all steps, (B, T, H); whoever reads a state besides is refused, by `getitem`."""
    import torch
    from torch import nn

    if module.num_layers != 1 or module.bidirectional or not module.batch_first or not module.bias or len(node.args) != 1 or module.proj_size:
        raise Unsupported("a recurrent layer of several levels or directions, with time first, without bias or with a state of its own")
    is_gru = isinstance(module, nn.GRU)
    order = _GRU_ORDER if is_gru else _LSTM_ORDER
    held = {name: _in_order(parameter, order) for name, parameter in module.named_parameters()}
    weights = [held[name][None] for name in ("weight_ih_l0", "weight_hh_l0")]
    bias = torch.cat([held["bias_ih_l0"], held["bias_hh_l0"]])[None]
    names = [
        writer.weight(f"{node.target}.{name}", tensor) for name, tensor in zip(("weight_ih", "weight_hh", "bias"), [*weights, bias], strict=True)
    ]
    writer.emit("Transpose", [source_of(node)], f"{out}/in", perm=[1, 0, 2])
    options: dict[str, Any] = {"linear_before_reset": 1} if is_gru else {}
    writer.emit("GRU" if is_gru else "LSTM", [f"{out}/in", *names], f"{out}/steps", hidden_size=module.hidden_size, **options)
    writer.emit("Squeeze", [f"{out}/steps", writer.integers(f"{out}/direction", [1])], f"{out}/one")
    writer.emit("Transpose", [f"{out}/one"], out, perm=[1, 0, 2])


def _in_order(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """The gates of a weight or bias, which lie one below the other, in another order."""
    import torch

    gates = tensor.detach().chunk(len(order))
    return torch.cat([gates[gate] for gate in order])


@function_rule("getitem")
def _getitem(writer: GraphWriter, node: fx.Node, out: str) -> None:
    from torch import fx

    source = node.args[0]
    module = writer.modules.get(str(source.target)) if isinstance(source, fx.Node) and source.op == "call_module" else None
    if type(module).__name__ not in ("GRU", "LSTM") or node.args[1] != 0:
        raise Unsupported("an index into something else than the outputs of a recurrent layer")
    writer.emit("Identity", [source_of(node)], out)


@function_rule("scaled_dot_product_attention")
def _attention(writer: GraphWriter, node: fx.Node, out: str) -> None:
    """softmax(q k^T / sqrt(d) + mask) v."""
    from torch import fx

    query, key, value = node.args[:3]
    known = {"attn_mask", "dropout_p"}
    if not isinstance(query, fx.Node) or len(node.args) != 3 or set(node.kwargs) - known or query.meta.get("shape") is None:
        raise Unsupported("attention with options")
    width = query.meta["shape"][-1]
    writer.emit("Transpose", [writer.operand(key, out)], f"{out}/keys", perm=[0, 1, 3, 2])
    writer.emit("MatMul", [query.name, f"{out}/keys"], f"{out}/products")
    scores = f"{out}/scores"
    writer.emit("Mul", [f"{out}/products", writer.operand(1 / math.sqrt(width), f"{out}/scale")], scores)
    mask = node.kwargs.get("attn_mask")
    if mask is not None:
        writer.emit("Add", [scores, writer.operand(mask, out)], f"{out}/masked")
        scores = f"{out}/masked"
    writer.emit("Softmax", [scores], f"{out}/weights", axis=-1)
    writer.emit("MatMul", [f"{out}/weights", writer.operand(value, out)], out)


@function_rule("unflatten")
def _unflatten(writer: GraphWriter, node: fx.Node, out: str) -> None:
    dim, sizes = node.args[1:3] if len(node.args) == 3 else (None, None)
    wanted = [size for size in sizes if isinstance(size, int)] if isinstance(sizes, (tuple, list)) else []
    if not wanted or not isinstance(dim, int) or dim != writer.rank(node) - len(wanted):
        raise Unsupported("an unflatten of another dimension than the last")
    writer.emit("Reshape", [source_of(node), writer.integers(f"{out}/shape", [0] * dim + wanted)], out)


@function_rule("transpose")
def _transpose(writer: GraphWriter, node: fx.Node, out: str) -> None:
    rank = writer.rank(node, unknown=0)
    places = list(range(rank))
    first, second = node.args[1:3]
    if not rank or not isinstance(first, int) or not isinstance(second, int):
        raise Unsupported("a transpose whose rank is unknown")
    places[first], places[second] = places[second], places[first]
    writer.emit("Transpose", [source_of(node)], out, perm=places)


@function_rule("unsqueeze")
def _unsqueeze(writer: GraphWriter, node: fx.Node, out: str) -> None:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if not isinstance(dim, int):
        raise Unsupported("an unsqueeze at a computed dimension")
    writer.emit("Unsqueeze", [source_of(node), writer.integers(f"{out}/dim", [dim])], out)


@function_rule("type_as")
def _type_as(writer: GraphWriter, node: fx.Node, out: str) -> None:
    """All floats of a file are fp32."""
    from onnx import TensorProto

    if not writer.is_float(node):
        raise Unsupported("a cast to whole numbers")
    writer.emit("Cast", [source_of(node)], out, to=TensorProto.FLOAT)


@function_rule("eq", "ne")
def _compare(writer: GraphWriter, node: fx.Node, out: str) -> None:
    other = node.args[1]
    if not isinstance(other, int):
        raise Unsupported("a comparison with something else than a whole number")
    name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
    is_float = writer.is_float(node.all_input_nodes[0])
    number = writer.operand(other, f"{out}/number") if is_float else writer.integers(f"{out}/number", [other])
    writer.emit("Equal", [source_of(node), number], out if name == "eq" else f"{out}/equal")
    if name != "eq":
        writer.emit("Not", [f"{out}/equal"], out)


@function_rule("sum")
def _sum(writer: GraphWriter, node: fx.Node, out: str) -> None:
    dims, keep = dims_of(node)
    writer.emit("ReduceSum", [source_of(node), writer.integers(f"{out}/dims", dims)], out, keepdims=int(keep))


@function_rule("clamp")
def _clamp(writer: GraphWriter, node: fx.Node, out: str) -> None:
    if len(node.args) != 1 or set(node.kwargs) != {"min"}:
        raise Unsupported("a clamp on another side than below")
    writer.emit("Max", [source_of(node), writer.operand(node.kwargs["min"], f"{out}/least")], out)


@function_rule("take")
def _take(writer: GraphWriter, node: fx.Node, out: str) -> None:
    """Numbers of a vector by their places; anything else would have to be flattened first."""
    table, places = node.args
    from torch import fx

    if not isinstance(table, fx.Node) or writer.rank(table, unknown=0) != 1:
        raise Unsupported("a take from something else than a vector")
    writer.emit("Gather", [table.name, writer.operand(places, out)], out, axis=0)
