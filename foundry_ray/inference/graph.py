"""What identifies a deployed graph: operators, attributes, shapes, types and quantization. Never its weights.

Latency belongs to this identity, so that a graph is measured once whatever its weights, and before training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_ray.types import Json, canonical_sha256

if TYPE_CHECKING:
    import onnx as onnx_types


def graph_sha256(onnx: bytes) -> str:
    """Hex sha256 of the structure of an ONNX file. Tensor names do not enter, so a renamed layer changes nothing."""
    import onnx as onnx_library

    model = onnx_library.load_model_from_string(onnx)
    graph = model.graph
    ids = {tensor.name: position for position, tensor in enumerate(graph.initializer)}
    document: list[Json] = [[tensor.data_type, list(tensor.dims)] for tensor in graph.initializer]
    for value in (*graph.input, *graph.output):
        ids.setdefault(value.name, len(ids))
        document.append([value.type.tensor_type.elem_type, [dim.dim_value for dim in value.type.tensor_type.shape.dim]])
    document.extend(_node(node, ids) for node in graph.node)
    opsets: list[Json] = [f"{item.domain}:{item.version}" for item in sorted(model.opset_import, key=lambda item: str(item.domain))]
    return canonical_sha256([opsets, document])


def _node(node: onnx_types.NodeProto, ids: dict[str, int]) -> Json:
    """A node as JSON; its tensors become numbers in order of appearance."""
    import hashlib

    for name in (*node.input, *node.output):
        ids.setdefault(name, len(ids))
    attributes: list[Json] = [
        [attribute.name, hashlib.sha256(attribute.SerializeToString()).hexdigest()]
        for attribute in sorted(node.attribute, key=lambda attribute: str(attribute.name))
    ]
    return [node.domain, node.op_type, [ids[name] for name in node.input], [ids[name] for name in node.output], attributes]
