"""What an exported graph comes to: parameters, multiply-accumulates, bytes of weights, counted in the file and not by the package's cost model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import onnx

_RECURRENT = ("GRU", "LSTM", "RNN")


class Counted(NamedTuple):
    """`num_params`: numbers among the constants; `num_macs`: multiply-accumulates of one sample."""

    num_params: int
    num_macs: int


def counted(data: bytes) -> Counted:
    """Count an fp32 file. Batch norms are folded in it, so that a model's own parameters are a few more."""
    import onnx

    model = onnx.load_model_from_string(data)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = _shapes(graph)
    floats = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    return Counted(
        num_params=sum(math.prod(tensor.dims) for tensor in floats),
        num_macs=sum(_macs(node, shapes) for node in graph.node),
    )


def weight_bytes(data: bytes) -> int:
    """Bytes of all constants of a file of any storage, scales and biases among them."""
    import onnx
    from onnx import numpy_helper

    tensors = onnx.load_model_from_string(data).graph.initializer
    return sum(len(tensor.raw_data) or numpy_helper.to_array(tensor).nbytes for tensor in tensors)


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    values = (*graph.input, *graph.value_info, *graph.output)
    found = {value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim) for value in values}
    return found | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]) -> int:
    """A product per element of the output and of what it sums over; of recurrent layers per step and weight."""
    if node.op_type == "Conv":
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type in _RECURRENT:
        num_steps = shapes[node.input[0]][0]
        return num_steps * sum(math.prod(shapes[name]) for name in node.input[1:3])
    return 0
