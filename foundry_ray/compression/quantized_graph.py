"""Writing an int8 file: where a grid is known, tensors pass through QuantizeLinear and DequantizeLinear, weights become int8.

A runtime fuses each operator with the pairs around it into one integer kernel. See `quantize` for what is stored and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from foundry_ray.compression.grids import MOVES, Grid, consumers, pixel_grid
from foundry_ray.compression.integers import MAX_INT8
from foundry_ray.compression.onnx_layers import STORED_ONLY, Layer, layers
from foundry_ray.compression.rewriting import Rewriter
from foundry_ray.compression.weight_storage import store_int8

if TYPE_CHECKING:
    import numpy as np
    import onnx

_MAX_INT32 = 2**31 - 1


def write(model: onnx.ModelProto, grids: Mapping[str, Grid], kept: frozenset[str] = frozenset()) -> bytes:
    """The int8 file of a parsed fp32 file; layers whose outputs are in `kept` hold fp32 weights."""
    writer = _Writer(model.graph, grids, kept)
    for node in model.graph.node:
        writer.visit(node)
    return writer.written(model)


def quantize_weight(weight: np.ndarray, bias: np.ndarray | None, input_scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Integers in [-127, 127] and the scale of each output channel (axis 0): max|w| / 127, larger where the bias would overflow int32."""
    import numpy as np

    flat = np.abs(weight.reshape(len(weight), -1)).max(axis=1) / MAX_INT8
    if bias is not None:
        flat = np.maximum(flat, np.abs(bias) / (input_scale * _MAX_INT32 * 0.5))
    scale = np.where(flat > 0, flat, 1.0).astype(np.float32)
    shape = (-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / scale.reshape(shape)), -MAX_INT8, MAX_INT8).astype(np.int8), scale


class _Writer(Rewriter):
    """Rewrites nodes in order. A stored tensor `x` has the integers `x/q`; readers that need numbers find them under `x`."""

    def __init__(self, graph: onnx.GraphProto, grids: Mapping[str, Grid], kept: frozenset[str]) -> None:
        super().__init__(graph)
        self.grids = dict(grids)
        self._layers = {layer.output: layer for layer in layers(graph) if layer.output not in kept}
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
        layer, stored = self._layers.get(output), self._stored_as(output)
        if layer is not None and layer.op_type in STORED_ONLY:
            store_int8(self, self.changed(node, output=f"{stored}/f" if stored else None), layer)
        else:
            if layer is not None and layer.source in self.grids:
                node = self._with_stored_weight(node, layer)
            self.copy(node, output=f"{stored}/f" if stored else None)
        if stored:
            self.emit("QuantizeLinear", [f"{stored}/f", *self._grid_names(stored)], self._integers(stored))
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
        self.copy(node, inputs=[self._integers(node.input[0])], output=self._integers(node.output[0]))
        self._dequantize(node.output[0])

    def _with_stored_weight(self, node: onnx.NodeProto, layer: Layer) -> onnx.NodeProto:
        """The node reading int8 weights and an int32 bias of its own, also where layers share theirs."""
        import numpy as np
        from onnx import NodeProto

        step = self.grids[layer.source].scale
        weight, bias = self.numbers(node.input[1]), self.numbers(node.input[2]) if len(node.input) > 2 else None
        values, scale = quantize_weight(weight if layer.axis == 0 else weight.T, bias, step)
        changed = NodeProto()
        changed.CopyFrom(node)
        values = values if layer.axis == 0 else values.T
        # onnxruntime takes a Gemm without a zero point of its weights apart again: it turns them back into floats in each call.
        has_zero = node.op_type == "Gemm"
        changed.input[1] = self._store_constant(f"{node.output[0]}/weight", values, scale, axis=layer.axis, has_zero=has_zero)
        if bias is not None:
            steps = scale.astype(np.float64) * step
            changed.input[2] = self._store_constant(f"{node.output[0]}/bias", np.rint(bias / steps).astype(np.int32), steps, axis=0)
        return changed

    def _store_constant(self, name: str, integers: np.ndarray, scale: np.ndarray, *, axis: int, has_zero: bool = False) -> str:
        import numpy as np

        stored = self.constant(f"{name}/q", integers)
        step = self.constant(f"{name}/scale", scale.astype("float32"))
        zero = [self.constant(f"{name}/zero", np.zeros(scale.shape, integers.dtype))] if has_zero else []
        return self.emit("DequantizeLinear", [stored, step, *zero], name, axis=axis)

    def _dequantize(self, name: str) -> None:
        self.emit("DequantizeLinear", [self._integers(name), *self._grid_names(name)], name)

    def _integers(self, name: str) -> str:
        return self._renamed.get(f"{name}/q", f"{name}/q")

    def _grid_names(self, name: str) -> list[str]:
        import numpy as np

        scale = self.constant(f"{name}/scale", np.asarray(self.grids[name].scale, dtype=np.float32))
        return [scale, self.constant(f"{name}/zero", np.asarray(self.grids[name].zero_point, dtype=np.uint8))]
