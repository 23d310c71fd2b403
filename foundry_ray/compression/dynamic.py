"""Dynamic int8: linear layers multiply integers, and the grid of each activation is that of the numbers that came in.

It needs no calibration and suits transformers, whose activations have outliers that move. A grid is found for all that a runtime was given at
once, so an answer depends a little on what else is in its batch. Other layers store int8 weights and compute in fp32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_ray.compression import integers
from foundry_ray.compression.grids import LINEAR
from foundry_ray.compression.onnx_layers import Layer
from foundry_ray.compression.rewriting import Rewriter
from foundry_ray.compression.weight_storage import store_int8, write_layers

if TYPE_CHECKING:
    import onnx


def write_dynamic(model: onnx.ModelProto, kept: frozenset[str]) -> bytes:
    """The dynamic int8 file of a parsed fp32 file."""
    return write_layers(model, kept, _write)


def _write(writer: Rewriter, node: onnx.NodeProto, layer: Layer) -> None:
    if layer.op_type not in LINEAR:
        store_int8(writer, node, layer)
        return
    from onnx import TensorProto

    name, output, bias = layer.weights[0], node.output[0], list(node.input[2:])
    weight_KN = writer.numbers(name) if layer.axis == 1 else writer.numbers(name).T
    values_KN, scale_1N = integers.per_channel(weight_KN, 1)
    stored, steps = writer.constant(f"{name}/q", values_KN), writer.constant(f"{name}/scale", scale_1N.reshape(-1))
    source = _quantized(writer, layer.source)
    product = writer.emit("MatMulInteger", [f"{source}/q", stored, f"{source}/zero"], f"{output}/i")
    scale = writer.emit("Mul", [f"{source}/step", steps], f"{output}/scale")
    numbers = writer.emit("Cast", [product], f"{output}/f", to=TensorProto.FLOAT)
    scaled = writer.emit("Mul", [numbers, scale], f"{output}/product" if bias else output)
    if bias:
        writer.emit("Add", [scaled, *bias], output)


def _quantized(writer: Rewriter, source: str) -> str:
    """Quantize an activation once, however many layers read it; returns the prefix of its parts."""
    from onnx import helper

    prefix = f"{source}/dynamic"
    parts = [f"{prefix}/{part}" for part in ("q", "step", "zero")]
    if not any(parts[0] in node.output for node in writer.nodes):
        writer.nodes.append(helper.make_node("DynamicQuantizeLinear", [source], parts))
    return prefix
