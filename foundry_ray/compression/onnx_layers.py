"""Which nodes of an fp32 ONNX graph hold weights, and what they are called in the model: the layers that a recipe may keep.

A file of this package's own writer names a weight by its module; torch's exporter says in each node's notes which module it came from,
and `name_nodes` turns that into the node's name before the notes are dropped.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_ray.errors import RecipeInfeasible

if TYPE_CHECKING:
    import onnx

TABLE = "Gather"
ADDED = "Add"
RECURRENT = ("LSTM", "GRU", "RNN")
STORED_ONLY = (TABLE, ADDED, *RECURRENT)
"""Their weights are stored as integers and computed with in fp32, in every scheme."""
_SCOPES = "pkg.torch.onnx.name_scopes"
_WEIGHT = "weight"
_LARGE = 1024
"""Numbers of an added matrix from which on it is a layer: a position's vectors are, a bias is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A node that holds weights.

    Attributes:
        name: Of its module; of its output where no module is known. Layers that share a module share the name.
        op_type: Conv, Gemm, MatMul, Gather (a table of rows), Add (a matrix that is added to an activation, such as positions) or a recurrent one.
        source: The activation that it reads.
        output: The tensor that it writes, unlike any other's.
        weights: Its initializers, biases not among them.
        axis: That of the output channels in each of them.
    """

    name: str
    op_type: str
    source: str
    output: str
    weights: tuple[str, ...]
    axis: int


def layers(graph: onnx.GraphProto) -> list[Layer]:
    """All layers, in the order in which they act."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    traced = is_traced(graph)
    found = ((node, _held(node, tensors, is_traced=traced)) for node in graph.node)
    return [
        Layer(name=_name(node, held), op_type=node.op_type, source=_source(node, held), output=node.output[0], weights=held, axis=_axis(node))
        for node, held in found
        if held
    ]


def layer_names(onnx: bytes) -> tuple[str, ...]:
    """The names of all layers of a file, each once."""
    import onnx as onnx_library

    return tuple(dict.fromkeys(layer.name for layer in layers(onnx_library.load_model_from_string(onnx).graph)))


def outputs_of(all_layers: Sequence[Layer], names: Iterable[str]) -> frozenset[str]:
    """Outputs of the layers of these names. Raises RecipeInfeasible that lists the names there are."""
    known = {layer.name for layer in all_layers}
    wanted = set(names)
    for name in sorted(wanted - known):
        listed = ", ".join(sorted(known))
        raise RecipeInfeasible(f"quantize: there is no layer {name!r} to keep.", hint=f"keep some of {listed}.", reason=f"no layer {name!r}")
    return frozenset(layer.output for layer in all_layers if layer.name in wanted)


def name_nodes(graph: onnx.GraphProto, *, wrapper: str) -> None:
    """Name each node of torch's exporter by its module and its output; `wrapper` is the attribute under which the model was exported."""
    for node in graph.node:
        for scopes in [ast.literal_eval(item.value) for item in node.metadata_props if item.key == _SCOPES]:
            node.name = f"{str(scopes[-2]).removeprefix(wrapper).removeprefix('.')}/{node.output[0]}"


def is_traced(graph: onnx.GraphProto) -> bool:
    """Whether a graph was written operator by operator from a traced model, whose names its tensors bear: torch's exporter names nodes."""
    return not any(node.name for node in graph.node)


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """A node's attributes as plain values."""
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _held(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto], *, is_traced: bool) -> tuple[str, ...]:
    """Initializers that are a layer's weights; none where the node is no layer that is known here.

    An added matrix is one in a traced graph alone, where it is a parameter by name and can be rounded in training as well.
    """
    import numpy as np
    from onnx import TensorProto, numpy_helper

    def _is_weight(position: int, *, dims: int | None = None) -> bool:
        tensor = tensors.get(node.input[position]) if len(node.input) > position else None
        return tensor is not None and tensor.data_type == TensorProto.FLOAT and (dims is None or len(tensor.dims) == dims)

    if node.op_type == "Conv" and _is_weight(1):
        return (node.input[1],)
    if node.op_type == "Gemm" and _is_weight(1, dims=2) and node.input[0] not in tensors and _is_plain(node):
        return (node.input[1],)
    if node.op_type == "MatMul" and _is_weight(1, dims=2) and node.input[0] not in tensors:
        return (node.input[1],)
    if node.op_type == TABLE and _is_weight(0, dims=2) and node.input[1] not in tensors and attributes(node).get("axis", 0) == 0:
        return (node.input[0],)
    if node.op_type in RECURRENT and _is_weight(1) and _is_weight(2):
        return (node.input[1], node.input[2])
    if node.op_type == ADDED and is_traced:
        matrices = [tensors[name] for place, name in enumerate(node.input) if _is_weight(place, dims=2)]
        if len(matrices) == 1 and math.prod(matrices[0].dims) >= _LARGE and np.isfinite(numpy_helper.to_array(matrices[0])).all():
            return (matrices[0].name,)
    return ()


def _is_plain(gemm: onnx.NodeProto) -> bool:
    """Whether a Gemm is a linear layer: x @ w + b."""
    found = attributes(gemm)
    return not found.get("transA", 0) and found.get("alpha", 1.0) == 1.0 and found.get("beta", 1.0) == 1.0


def _source(node: onnx.NodeProto, held: tuple[str, ...]) -> str:
    return str(next(name for name in node.input if name not in held))


def _axis(node: onnx.NodeProto) -> int:
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attributes(node).get("transB", 0)):
        return 1
    return 1 if node.op_type in RECURRENT else 0  # (directions, gates, inputs)


def _name(node: onnx.NodeProto, held: tuple[str, ...]) -> str:
    if node.name:
        return str(node.name).partition("/")[0]
    if node.op_type == ADDED:
        return held[0]
    module, _, parameter = held[0].rpartition(".")
    return module if parameter.startswith(_WEIGHT) else str(node.output[0])
