"""Weights stored in fewer bits and computed with in fp32: what int8 and int4 weights, fp16 and bf16 do to each layer of a graph.

A runtime turns constants back into fp32 once, when it loads the file: it is smaller in the store and on its way, and as fast as fp32. Two kinds
of weights stay small in memory too: 4-bit matrices, which have a kernel of their own (MatMulNBits), and tables, of which rows are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from foundry_ray.compression import integers
from foundry_ray.compression.onnx_layers import ADDED, RECURRENT, TABLE, Layer, layers
from foundry_ray.compression.rewriting import MICROSOFT, Rewriter

if TYPE_CHECKING:
    import onnx

LayerWriter = Callable[[Rewriter, "onnx.NodeProto", Layer], None]


def write_layers(model: onnx.ModelProto, kept: frozenset[str], write: LayerWriter) -> bytes:
    """The file whose layers are written by `write`, but for those whose outputs are in `kept`, and all else as it was."""
    writer = Rewriter(model.graph)
    found = {layer.output: layer for layer in layers(model.graph) if layer.output not in kept}
    for node in model.graph.node:
        layer = found.get(node.output[0])
        if layer is None:
            writer.copy(node)
        else:
            write(writer, node, layer)
    return writer.written(model)


def store_int8(writer: Rewriter, node: onnx.NodeProto, layer: Layer) -> None:
    """A layer with int8 weights and a scale per output channel, or per row of a table, of an added or of a recurrent matrix."""
    if layer.op_type == TABLE:
        _store_table(writer, node)
        return
    inputs = list(node.input)
    for position, name in enumerate(node.input):
        if name in layer.weights:
            inputs[position] = _restored(writer, f"{node.output[0]}/{position}", name, layer)
    writer.copy(node, inputs=inputs)


def _restored(writer: Rewriter, prefix: str, name: str, layer: Layer) -> str:
    """A weight that is stored as int8, as numbers again."""
    from onnx import TensorProto

    weight, is_recurrent = writer.numbers(name), layer.op_type in RECURRENT
    values, scale = integers.per_row(weight) if is_recurrent else integers.per_channel(weight, layer.axis)
    stored, steps = writer.constant(f"{name}/q", values), writer.constant(f"{name}/scale", scale)
    if is_recurrent:
        # Beside layers in static int8, OpenVINO keeps int8 -> float -> product as it is, but its recurrent layers take constants alone.
        stored = writer.emit("Cast", [stored], f"{prefix}/int32", to=TensorProto.INT32)
    return _times(writer, _as_float(writer, stored, f"{prefix}/i"), steps, f"{prefix}/w")


def _store_table(writer: Rewriter, node: onnx.NodeProto) -> None:
    """Rows are found in the stored integers and scaled after that, so that nobody turns a whole vocabulary into floats."""
    (name, ids), output = node.input, node.output[0]
    values, scale = integers.per_row(writer.numbers(name))
    rows = writer.emit("Gather", [writer.constant(f"{name}/q", values), ids], f"{output}/q", axis=0)
    steps = writer.emit("Gather", [writer.constant(f"{name}/scale", scale), ids], f"{output}/scale", axis=0)
    _times(writer, _as_float(writer, rows, f"{output}/i"), steps, output)


def store_int4(group: int) -> LayerWriter:
    """A layer with 4-bit weights and a scale for each `group` neighbours of an output channel; recurrent layers and added matrices take int8."""

    def _write(writer: Rewriter, node: onnx.NodeProto, layer: Layer) -> None:
        if layer.op_type in (ADDED, *RECURRENT):
            store_int8(writer, node, layer)
        elif layer.op_type in ("MatMul", "Gemm"):
            _store_matrix_int4(writer, node, layer, group)
        elif layer.op_type == TABLE:
            _store_table_int4(writer, node, group)
        else:
            _store_filters_int4(writer, node, group)

    return _write


def _store_matrix_int4(writer: Rewriter, node: onnx.NodeProto, layer: Layer, group: int) -> None:
    name, output = layer.weights[0], node.output[0]
    weight_NK = writer.numbers(name) if layer.axis == 0 else writer.numbers(name).T
    values_NBG, scale_NB1 = integers.in_groups(weight_NK, group)
    stored = writer.constant(f"{name}/q", integers.packed(values_NBG, neighbours=True))
    steps = writer.constant(f"{name}/scale", scale_NB1.reshape(-1))
    bias = list(node.input[2:])
    size = {"N": weight_NK.shape[0], "K": weight_NK.shape[1], "bits": 4, "block_size": group}
    product = f"{output}/product" if bias else output
    writer.emit("MatMulNBits", [layer.source, stored, steps], product, domain=MICROSOFT, **size)
    if bias:
        writer.emit("Add", [product, *bias], output)


def _store_table_int4(writer: Rewriter, node: onnx.NodeProto, group: int) -> None:
    (name, ids), output = node.input, node.output[0]
    table_VK = writer.numbers(name)
    values_VBG, scale_VB1 = integers.in_groups(table_VK, min(group, table_VK.shape[1] + table_VK.shape[1] % 2))
    stored = writer.constant(f"{name}/q", integers.packed(values_VBG, neighbours=False))
    found = writer.emit("Gather", [stored, ids], f"{output}/q", axis=0)
    steps = writer.emit("Gather", [writer.constant(f"{name}/scale", scale_VB1), ids], f"{output}/scale", axis=0)
    scaled = _times(writer, _unpacked(writer, found, output), steps, f"{output}/groups")
    # (..., B, G) -> (..., B * G) -> (..., K): ids have any number of axes.
    size = writer.emit("Concat", [writer.emit("Shape", [ids], f"{output}/ids"), _int64(writer, f"{output}/all", (-1,))], f"{output}/size", axis=0)
    _first(writer, writer.emit("Reshape", [scaled, size], f"{output}/rows"), table_VK.shape[1], output)


def _store_filters_int4(writer: Rewriter, node: onnx.NodeProto, group: int) -> None:
    name, output = node.input[1], node.output[0]
    weight = writer.numbers(name)
    flat_NK = weight.reshape(len(weight), -1)
    values_NBG, scale_NB1 = integers.in_groups(flat_NK, group)
    stored = writer.constant(f"{name}/q", integers.packed(values_NBG, neighbours=False))
    scaled = _times(writer, _unpacked(writer, stored, output), writer.constant(f"{name}/scale", scale_NB1), f"{output}/groups")
    whole = writer.emit("Reshape", [scaled, _int64(writer, f"{output}/flat", (len(weight), -1))], f"{output}/rows")
    filters = _first(writer, whole, flat_NK.shape[1], f"{output}/filters")
    shaped = writer.emit("Reshape", [filters, _int64(writer, f"{output}/shape", weight.shape)], f"{output}/w")
    writer.copy(node, inputs=[node.input[0], shaped, *node.input[2:]])


def _unpacked(writer: Rewriter, stored: str, output: str) -> str:
    """Packed halves as numbers -7..7. With floats alone: runtimes differ in what they do to shifted bytes."""
    import numpy as np

    sixteen = writer.constant("int4/sixteen", np.asarray(16, dtype=np.float32))
    codes = _as_float(writer, stored, f"{output}/codes")
    high = writer.emit("Floor", [writer.emit("Div", [codes, sixteen], f"{output}/ratio")], f"{output}/high")
    low = writer.emit("Sub", [codes, writer.emit("Mul", [high, sixteen], f"{output}/rest")], f"{output}/low")
    both = writer.emit("Concat", [low, high], f"{output}/both", axis=-1)
    return writer.emit("Sub", [both, writer.constant("int4/zero", np.asarray(integers.ZERO_INT4, dtype=np.float32))], f"{output}/i")


def _as_float(writer: Rewriter, stored: str, output: str) -> str:
    from onnx import TensorProto

    return writer.emit("Cast", [stored], output, to=TensorProto.FLOAT)


def _times(writer: Rewriter, numbers: str, scale: str, output: str) -> str:
    return writer.emit("Mul", [numbers, scale], output)


def _first(writer: Rewriter, rows: str, size: int, output: str) -> str:
    """The first `size` numbers of the last axis."""
    ends = [_int64(writer, f"int4/{value}", (value,)) for value in (0, size, -1)]
    return writer.emit("Slice", [rows, *ends], output)


def _int64(writer: Rewriter, name: str, values: tuple[int, ...]) -> str:
    import numpy as np

    return writer.constant(name, np.asarray(values, dtype=np.int64))
