"""Static int8: which activations are stored in 8 bits, and on which grid; `quantized_graph` writes them down.

A layer that multiplies weights reads integers; convolutions, pools and the sums behind them pass integers on. All else computes in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from foundry_ray.compression import calibration
from foundry_ray.compression.calibration import Method
from foundry_ray.compression.grids import LINEAR, MOVES, Grid, consumers, grid_of, pixel_grid
from foundry_ray.compression.onnx_layers import layers

if TYPE_CHECKING:
    import numpy as np
    import onnx

_POOLS = ("GlobalAveragePool", "AveragePool")


def stored_tensors(graph: onnx.GraphProto, kept: frozenset[str] = frozenset()) -> list[str]:
    """Activations that an integer kernel reads or writes, in order; a graph's result stays in fp32, and so does the layer whose output is kept."""
    weights = {tensor.name for tensor in graph.initializer}
    results = {value.name for value in graph.output}
    readers = consumers(graph)
    quantized = {layer.output: layer for layer in layers(graph) if layer.output not in kept}
    stored: dict[str, None] = {}
    passed_on: set[str] = set()
    for node in graph.node:
        activations = [str(name) for name in node.input if name not in weights]
        layer = quantized.get(node.output[0])
        if node.op_type in LINEAR and layer is not None:
            stored[layer.source] = None
        elif (node.op_type == "Conv" and layer is not None) or _goes_on(node, activations, passed_on):
            stored.update(dict.fromkeys(activations))
            stored[_after_relu(node, readers)] = None
            passed_on |= {str(node.output[0]), _after_relu(node, readers)}
        elif node.op_type in (*MOVES, "Relu") and passed_on & set(activations):
            passed_on.add(str(node.output[0]))
    return [name for name in stored if name not in results]


def node_of(name: str) -> str:
    """The operator of the traced model whose value a stored tensor is: what it is made of on the way bears its name and a slash."""
    return name.partition("/")[0]


def calibrated(
    model: onnx.ModelProto,
    rows_N: np.ndarray,
    *,
    method: Method = "minmax",
    percentile: float = 100.0,
    learnt: Mapping[str, tuple[float, float]] | None = None,
) -> Mapping[str, Grid]:
    """The grid of each activation that is stored in 8 bits.

    Args:
        model: Of fp32.
        rows_N: Raw rows of the training split.
        method: How a range follows from the rows.
        percentile: Of that method.
        learnt: Ranges that were trained with; rows set those of other tensors alone.
    """
    stored = stored_tensors(model.graph)
    learnt = learnt or {}
    open_names = [name for name in stored if name not in learnt]
    measured = calibration.ranges(model, open_names, rows_N, method=method, percentile=percentile) if open_names else {}
    grids = {name: grid_of(*learnt.get(name, measured.get(name, (0.0, 0.0)))) for name in stored}
    pixels = pixel_grid(model.graph)
    if pixels is not None and pixels[0] in grids:
        grids[pixels[0]] = pixels[1]
    return grids


def _goes_on(node: onnx.NodeProto, activations: list[str], passed_on: set[str]) -> bool:
    """Whether a pool, or a sum of two activations, works on integers that come to it: elsewhere storing them would cost more than it saves."""
    is_known = node.op_type in _POOLS or (node.op_type == "Add" and len(activations) == 2)
    return is_known and bool(passed_on & set(activations))


def _after_relu(node: onnx.NodeProto, readers: Mapping[str, list[onnx.NodeProto]]) -> str:
    """Where an operator's output is stored: behind its Relu if that is its only reader, since clipping at 0 then costs nothing."""
    after = readers.get(node.output[0], [])
    return str(after[0].output[0]) if len(after) == 1 and after[0].op_type == "Relu" else str(node.output[0])
