"""Weights stored in 16 bits, as fp16 or bf16: half the bytes, computed with in fp32.

fp16 has three more bits of precision, bf16 the range of fp32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from foundry_ray.compression.onnx_layers import layers
from foundry_ray.compression.rewriting import Rewriter
from foundry_ray.errors import RecipeInfeasible

if TYPE_CHECKING:
    import numpy as np
    import onnx

Number = Literal["fp16", "bf16"]
MIN_ELEMENTS = 64
"""Of a tensor that is stored so: for a smaller one the node that turns it back takes more bytes than it saves."""


def write_half(model: onnx.ModelProto, number: Number, kept: frozenset[str]) -> bytes:
    """The file with 16-bit constants. Raises RecipeInfeasible where fp16 cannot hold one, or no tensor is large enough."""
    from onnx import TensorProto

    writer = Rewriter(model.graph)
    left = {name for layer in layers(model.graph) if layer.output in kept for name in layer.weights}
    found = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in left and _num_elements(tensor) >= MIN_ELEMENTS
    ]
    if not found:
        message = f"quantize: no tensor of this model has {MIN_ELEMENTS} elements or more to store in {number}."
        raise RecipeInfeasible(message, hint="use `bits: 32` for it.", reason="nothing to quantize")
    for name in found:
        stored = f"{name}/{number}"
        writer.weights[stored] = _stored(stored, writer.numbers(name), number)
        writer.emit("Cast", [stored], f"{name}/fp32", to=TensorProto.FLOAT)
    renamed = {name: f"{name}/fp32" for name in found}
    for node in model.graph.node:
        writer.copy(node, inputs=[renamed.get(name, name) for name in node.input])
    return writer.written(model)


def as_bf16(values: np.ndarray) -> np.ndarray:
    """The upper 16 bits of each float32 as uint16, rounded to nearest, ties to even."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded: np.ndarray = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def rounded_half(values: np.ndarray, number: Number) -> np.ndarray:
    """float32 values as they come back."""
    import numpy as np

    if number == "fp16":
        return values.astype(np.float16).astype(np.float32)
    rounded: np.ndarray = (as_bf16(values).astype(np.uint32) << 16).view(np.float32)
    return rounded


def _stored(name: str, values: np.ndarray, number: Number) -> onnx.TensorProto:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    if number == "bf16":
        return helper.make_tensor(name, TensorProto.BFLOAT16, values.shape, as_bf16(values).tobytes(), raw=True)
    largest, limit = float(np.abs(values).max()), float(np.finfo(np.float16).max)
    if largest > limit:
        message = f"quantize: {name.rpartition('/')[0]} holds {largest:g}, wanted at most {limit:g}, the largest fp16."
        raise RecipeInfeasible(message, hint="use `number: bf16`, or `keep` that layer.", reason="too large for fp16")
    return numpy_helper.from_array(values.astype(np.float16), name)


def _num_elements(tensor: onnx.TensorProto) -> int:
    import math

    return math.prod(tensor.dims)
