"""ONNX files with known answers."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def linear(factor: float, *, side: int = 2, classes: int = 2) -> bytes:
    """Logit k of an image is `factor` times the sum of every pixel i with i % classes == k."""
    weight = np.zeros((classes, side * side), dtype=np.float32)
    weight[np.arange(side * side) % classes, np.arange(side * side)] = factor
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["logits"], transB=1),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 1, side, side])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(nodes, "model", [pixels], [logits], [numpy_helper.from_array(weight, "weight")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
