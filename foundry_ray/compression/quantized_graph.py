"""Writing an int8 file: where a grid is known, tensors pass through QuantizeLinear and DequantizeLinear, weights become int8.

A runtime fuses each operator with the pairs around it into one integer kernel. See `quantize` for what is stored and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from foundry_ray.compression.grids import MOVES, WEIGHTED, Grid, consumers, pixel_grid

if TYPE_CHECKING:
    import numpy as np
    import onnx

_MAX_INT8 = 127
_MAX_INT32 = 2**31 - 1


def write(model: onnx.ModelProto, grids: Mapping[str, Grid]) -> bytes:
    """The int8 file of a parsed fp32 file."""
    import onnx

    writer = _Writer(model.graph, grids)
    for node in model.graph.node:
        writer.visit(node)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    del quantized.graph.node[:], quantized.graph.initializer[:]
    quantized.graph.node.extend(_without_dead(writer.nodes, {value.name for value in model.graph.output}))
    used = {name for node in quantized.graph.node for name in node.input}
    quantized.graph.initializer.extend(tensor for name, tensor in writer.weights.items() if name in used)
    onnx.checker.check_model(quantized)
    data: bytes = quantized.SerializeToString(deterministic=True)
    return data


def quantize_weight(weight: np.ndarray, bias: np.ndarray | None, input_scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Integers in [-127, 127] and the scale of each output channel (axis 0): max|w| / 127, larger where the bias would overflow int32."""
    import numpy as np

    flat = np.abs(weight.reshape(len(weight), -1)).max(axis=1) / _MAX_INT8
    if bias is not None:
        flat = np.maximum(flat, np.abs(bias) / (input_scale * _MAX_INT32 * 0.5))
    scale = np.where(flat > 0, flat, 1.0).astype(np.float32)
    shape = (-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / scale.reshape(shape)), -_MAX_INT8, _MAX_INT8).astype(np.int8), scale


class _Writer:
    """Rewrites nodes in order. A stored tensor `x` has the integers `x/q`; readers that need numbers find them under `x`."""

    def __init__(self, graph: onnx.GraphProto, grids: Mapping[str, Grid]) -> None:
        self.grids = dict(grids)
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self._original = dict(self.weights)
        self._readers = consumers(graph)
        self._renamed: dict[str, str] = {}
        pixels = pixel_grid(graph)
        if pixels is not None and self.grids.get(pixels[0]) == pixels[1]:
            self._renamed[f"{pixels[0]}/q"] = graph.input[0].name
            self._dequantize(pixels[0])

    def visit(self, node: onnx.NodeProto) -> None:
        """Write one fp32 node in its int8 form."""
        output = node.output[0]
        if f"{output}/q" in self._renamed:
            return
        if node.op_type == "Relu" and output in self.grids and self._is_clipped(node):
            return
        if node.op_type in MOVES and node.input[0] in self.grids:
            self._move(node)
            return
        if node.op_type in WEIGHTED and node.input[0] in self.grids and node.input[1] in self._original:
            node = self._with_stored_weight(node)
        stored = self._stored_as(output)
        self._append(node, inputs=node.input, output=f"{stored}/f" if stored else output)
        if stored:
            self._emit("QuantizeLinear", [f"{stored}/f", *self._grid_names(stored)], self._integers(stored))
            self._dequantize(stored)

    def _stored_as(self, output: str) -> str | None:
        """The tensor under which an output is stored: itself, or the Relu behind it."""
        if output in self.grids:
            return output
        after = self._readers.get(output, [])
        if len(after) == 1 and after[0].op_type == "Relu" and after[0].output[0] in self.grids and self._is_clipped(after[0]):
            return str(after[0].output[0])
        return None

    def _is_clipped(self, relu: onnx.NodeProto) -> bool:
        """Whether the grid behind a Relu starts at 0, so that storing clips as the Relu would."""
        return self.grids[relu.output[0]].zero_point == 0 and len(self._readers[relu.input[0]]) == 1 and relu.input[0] not in self.grids

    def _move(self, node: onnx.NodeProto) -> None:
        self.grids[node.output[0]] = self.grids[node.input[0]]
        self._append(node, inputs=[self._integers(node.input[0])], output=self._integers(node.output[0]))
        self._dequantize(node.output[0])

    def _with_stored_weight(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """The node reading int8 weights and an int32 bias of its own, also where layers share theirs."""
        import numpy as np
        from onnx import NodeProto, numpy_helper

        grid = self.grids[node.input[0]]
        bias = numpy_helper.to_array(self._original[node.input[2]]) if len(node.input) > 2 else None
        values, scale = quantize_weight(numpy_helper.to_array(self._original[node.input[1]]), bias, grid.scale)
        changed = NodeProto()
        changed.CopyFrom(node)
        changed.input[1] = self._store_constant(f"{node.output[0]}/weight", values, scale)
        if bias is not None:
            steps = scale.astype(np.float64) * grid.scale
            changed.input[2] = self._store_constant(f"{node.output[0]}/bias", np.rint(bias / steps).astype(np.int32), steps)
        return changed

    def _store_constant(self, name: str, integers: np.ndarray, scale: np.ndarray) -> str:
        self._constant(f"{name}/q", integers)
        self._constant(f"{name}/scale", scale.astype("float32"))
        self._emit("DequantizeLinear", [f"{name}/q", f"{name}/scale"], name, axis=0)
        return name

    def _dequantize(self, name: str) -> None:
        self._emit("DequantizeLinear", [self._integers(name), *self._grid_names(name)], name)

    def _integers(self, name: str) -> str:
        return self._renamed.get(f"{name}/q", f"{name}/q")

    def _grid_names(self, name: str) -> list[str]:
        import numpy as np

        self._constant(f"{name}/scale", np.asarray(self.grids[name].scale, dtype=np.float32))
        self._constant(f"{name}/zero", np.asarray(self.grids[name].zero_point, dtype=np.uint8))
        return [f"{name}/scale", f"{name}/zero"]

    def _constant(self, name: str, values: np.ndarray) -> None:
        from onnx import numpy_helper

        self.weights[name] = numpy_helper.from_array(values, name)

    def _emit(self, op_type: str, inputs: list[str], output: str, **attributes: int) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))

    def _append(self, node: onnx.NodeProto, *, inputs: Sequence[str], output: str) -> None:
        from onnx import NodeProto

        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:], copy.output[:] = inputs, [output]
        self.nodes.append(copy)


def _without_dead(nodes: list[onnx.NodeProto], results: set[str]) -> list[onnx.NodeProto]:
    """Drop nodes that nobody reads, such as the numbers of a tensor that is only moved."""
    needed, kept = set(results), []
    for node in reversed(nodes):
        if any(name in needed for name in node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]
