"""Grids: how a tensor's numbers are stored in 8 bits, and which operators take part. Pure functions of a graph.

A number x is stored as q = clip(round(x / scale) + zero_point, 0, 255).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx as onnx_types

LINEAR = ("Gemm", "MatMul")
# These move bytes without computing, so they run on the stored integers as they are.
MOVES = ("MaxPool", "Flatten")
_LEVELS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How a tensor's numbers are stored in 8 bits."""

    scale: float
    zero_point: int


def consumers(graph: onnx_types.GraphProto) -> Mapping[str, list[onnx_types.NodeProto]]:
    """Who reads each tensor."""
    readers: dict[str, list[onnx_types.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def grid_of(low: float, high: float) -> Grid:
    """The finest grid that spans the range and holds zero exactly (padding is zero)."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / _LEVELS or 1.0
    return Grid(scale=scale, zero_point=round(-low / scale))


def pixel_grid(graph: onnx_types.GraphProto) -> tuple[str, Grid] | None:
    """The normalised input and its grid, where the pixels are its stored form already.

    With one mean and one std, (x - mean) / std on the grid (1 / std, round(mean)) is stored as the pixel x itself, so that the
    first convolution reads raw pixels and nothing is normalised at all.
    """
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers = consumers(graph)
    name, constants = graph.input[0].name, []
    for op_type in ("Cast", "Sub", "Div"):
        after = readers.get(name, [])
        if len(after) != 1 or after[0].op_type != op_type:
            return None
        name = after[0].output[0]
        if op_type != "Cast":
            if after[0].input[1] not in weights:
                return None
            constants.append(numpy_helper.to_array(weights[after[0].input[1]]).ravel())
    mean, std = constants
    if any(values.min() != values.max() for values in constants) or not 0 <= mean[0] <= _LEVELS or std[0] <= 0:
        return None
    return name, Grid(scale=1 / float(std[0]), zero_point=round(float(mean[0])))
