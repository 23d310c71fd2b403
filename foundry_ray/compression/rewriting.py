"""Writing a graph anew, node by node: what all forms of a quantized file share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx

MICROSOFT = "com.microsoft"
_WORTH_SHARING = 1024


class Rewriter:
    """Collects the nodes and constants of the new graph; constants that nobody reads any more are left out at the end."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.original = {tensor.name: tensor for tensor in graph.initializer}
        self.weights = dict(self.original)
        self.nodes: list[onnx.NodeProto] = []
        self._same: dict[str, str] = {}

    def numbers(self, name: str) -> np.ndarray:
        """An initializer of the graph as it was."""
        from onnx import numpy_helper

        values: np.ndarray = numpy_helper.to_array(self.original[name])
        return values

    def constant(self, name: str, values: np.ndarray) -> str:
        """Keep a constant; returns its name, which is another's where a large one of the same content is kept already."""
        from onnx import numpy_helper

        if values.size >= _WORTH_SHARING:
            content = f"{values.dtype} {values.shape} {hashlib.sha256(values.tobytes()).hexdigest()}"
            name = self._same.setdefault(content, name)
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(values, name)
        return name

    def emit(self, op_type: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: object) -> str:
        """Append a node with one output; returns its name."""
        from onnx import helper

        self.nodes.append(helper.make_node(op_type, list(inputs), [output], domain=domain or None, **attributes))
        return output

    def copy(self, node: onnx.NodeProto, *, inputs: Sequence[str] | None = None, output: str | None = None) -> None:
        """Append a node, `changed`."""
        self.nodes.append(self.changed(node, inputs=inputs, output=output))

    def changed(self, node: onnx.NodeProto, *, inputs: Sequence[str] | None = None, output: str | None = None) -> onnx.NodeProto:
        """A node as it is, reading other tensors or writing its first one under another name where they are given."""
        from onnx import NodeProto

        copy = NodeProto()
        copy.CopyFrom(node)
        if inputs is not None:
            copy.input[:] = inputs
        if output is not None:
            copy.output[0] = output
        return copy

    def written(self, model: onnx.ModelProto) -> bytes:
        """The file: `model` with the collected nodes instead of its own."""
        import onnx
        from onnx import helper

        rewritten = onnx.ModelProto()
        rewritten.CopyFrom(model)
        del rewritten.graph.node[:], rewritten.graph.initializer[:]
        rewritten.graph.node.extend(_without_dead(self.nodes, {value.name for value in model.graph.output}))
        used = {name for node in rewritten.graph.node for name in node.input}
        rewritten.graph.initializer.extend(tensor for name, tensor in self.weights.items() if name in used)
        if any(node.domain == MICROSOFT for node in rewritten.graph.node):
            rewritten.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
        onnx.checker.check_model(rewritten)
        data: bytes = rewritten.SerializeToString(deterministic=True)
        return data


def _without_dead(nodes: list[onnx.NodeProto], results: set[str]) -> list[onnx.NodeProto]:
    """Drop nodes that nobody reads, such as the numbers of a tensor that is only moved."""
    needed, kept = set(results), []
    for node in reversed(nodes):
        if any(name in needed for name in node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]
