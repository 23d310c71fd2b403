"""A torch model as the one ONNX file that is served: uint8 "pixels" or int64 "tokens" in, float32 "logits" out, weights inside.

The batch is free, all else is fixed, the length of a sequence too: rows are padded to it anyway, and latency, MACs and int8 ranges belong to it.

Known operators are written directly (about 20 ms); other models go through torch's exporter (about 3 s). Both give the same signature.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from foundry_ray.compression import onnx_sequences  # noqa: F401  adds rules
from foundry_ray.compression.onnx_graph import GraphWriter, Unsupported
from foundry_ray.compression.onnx_layers import name_nodes
from foundry_ray.compression.tracing import folded, note_shapes
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.schemas import classes_only
from foundry_ray.types import Schema

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, fx, nn

INPUT_NAME = "pixels"
TOKENS_NAME = "tokens"
OUTPUT_NAME = "logits"
# Opset 18 with IR 10 is read by every onnxruntime since 1.18 and by OpenVINO and TensorRT.
_OPSET = 18
_IR_VERSION = 10
_MAX_BATCH = 4096
_INNER = "/inner"
"""What comes after a slash is no part of the traced name (`static_int8.node_of`)."""
_WRAPPER = "inner"
"""The attribute that holds a model while torch exports it."""


def to_onnx(model: nn.Module, schema: Schema) -> bytes:
    """Export in fp32 with batch norms folded and a free batch axis. `model` takes raw pixels as floats, or token ids; it is left unchanged.

    Raises:
        ConfigError: Rows have no class.
        RecipeInfeasible: Neither this package nor torch can write the model as ONNX.
    """
    schema = classes_only(schema, what="the export to ONNX")
    traced = folded(model)
    if traced is not None:
        try:
            note_shapes(traced, schema)
            return _finished(_written(traced, schema))
        except Unsupported:
            pass
    return _finished(_exported_by_torch(model, schema))


def input_name(schema: Schema) -> str:
    """What the one input of a file is called."""
    return INPUT_NAME if schema.kind == "images" else TOKENS_NAME


def _visited(traced: fx.GraphModule) -> tuple[GraphWriter, str, str]:
    """The writer after all nodes, with the names of the graph's input, as floats where it is of pixels, and of its result."""
    writer = GraphWriter(traced)
    start, end = "", ""
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            if start:
                raise Unsupported("a model with several inputs")
            start = node.name
        elif node.op == "output":
            end = writer.operand(node.args[0], "output")
        else:
            writer.visit(node)
    return writer, start, end


def _written(traced: fx.GraphModule, schema: Schema) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    writer, start, end = _visited(traced)
    has_pixels, name = schema.kind == "images", input_name(schema)
    _rename(writer.nodes, name)
    start, end = (f"{one}{_INNER}" if one == name else one for one in (start, end))
    first = helper.make_node("Cast", [name], [start], to=TensorProto.FLOAT) if has_pixels else helper.make_node("Identity", [name], [start])
    nodes = _without_identities([first, *writer.nodes], end)
    rows = helper.make_tensor_value_info(name, TensorProto.UINT8 if has_pixels else TensorProto.INT64, ["batch", *schema.shape])
    logits = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", len(schema.classes)])
    graph = helper.make_graph(nodes, "model", [rows], [logits], list(writer.weights.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def _rename(nodes: list[onnx.NodeProto], public: str) -> None:
    """Give a tensor another name that the model calls as the file calls its input or its result."""
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [f"{name}{_INNER}" if name == public else name for name in names]


def _without_identities(nodes: list[onnx.NodeProto], end: str) -> list[onnx.NodeProto]:
    """Drop Identity nodes and give the result its public name."""
    alias: dict[str, str] = {}
    kept = []
    for node in nodes:
        inputs = [alias.get(name, name) for name in node.input]
        if node.op_type == "Identity":
            alias[node.output[0]] = inputs[0]
            continue
        node.input[:] = inputs
        kept.append(node)
    result = alias.get(end, end)
    if result != OUTPUT_NAME:
        _rename(kept, OUTPUT_NAME)
    for node in kept:
        node.input[:] = [OUTPUT_NAME if name == result else name for name in node.input]
        node.output[:] = [OUTPUT_NAME if name == result else name for name in node.output]
    return kept


def on_rows(model: nn.Module, schema: Schema) -> tuple[nn.Module, Tensor, tuple[dict[int, Any], ...]]:
    """What torch's own exporters take: a copy of the model, in evaluation mode on the CPU, that begins with the rows as they are stored; two blank
    rows; and which of their dimensions is free."""
    import copy

    import torch

    has_pixels = schema.kind == "images"

    class _OnRows(torch.nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.inner(rows.float() if has_pixels else rows)
            return result

    begun = _OnRows(copy.deepcopy(model).to(device="cpu", dtype=torch.float32)).eval()
    rows = torch.zeros((2, *schema.shape), dtype=torch.uint8 if has_pixels else torch.int64)
    return begun, rows, ({0: torch.export.Dim("batch", min=1, max=_MAX_BATCH)},)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """torch's exporter warns of its own deprecated internals, and of libraries that a model does not use: no caller can change either."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _exported_by_torch(model: nn.Module, schema: Schema) -> onnx.ModelProto:
    import torch

    begun, rows, dynamic = on_rows(model, schema)
    with _quiet_exporter():
        try:
            program: Any = torch.onnx.export(
                begun,
                (rows,),
                dynamic_shapes=dynamic,
                input_names=[input_name(schema)],
                output_names=[OUTPUT_NAME],
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the model's own code runs in there, and the exporter raises what it meets
            reason = f"torch cannot write {type(model).__name__} as ONNX: {_cause(error)}"
            raise RecipeInfeasible(f"export: {reason}.", hint="what is served is ONNX: change the operator that is named.", reason=reason) from error
    proto: onnx.ModelProto = program.model_proto
    if proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
        reason = f"the number of rows is fixed in the forward pass of {type(model).__name__}, as torch exports it"
        raise RecipeInfeasible(f"export: {reason}.", hint="write `x.shape[0]` where it says `len(x)`, which is a constant to torch.", reason=reason)
    return proto


def _cause(error: BaseException) -> str:
    """The innermost error's first words: those around it say that it was met."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__


def _finished(proto: onnx.ModelProto) -> bytes:
    """Without the exporter's notes, which are a third of a small file and hold source paths; and proven to be well-formed."""
    import onnx

    proto.producer_name = "foundry_ray"
    proto.graph.doc_string = ""
    for field in ("value_info", "metadata_props"):
        proto.graph.ClearField(field)
    proto.ClearField("metadata_props")
    name_nodes(proto.graph, wrapper=_WRAPPER)
    for node in proto.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data
