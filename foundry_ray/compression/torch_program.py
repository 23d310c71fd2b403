"""A model as a second file, `model.pt2`, for programs that stay in torch: the graph and weights of torch.export, with the inputs and outputs of the
ONNX file. Its numbers are fp32, however those of the ONNX file are stored.

Such a file is a zip. What torch puts in it as a pickle (sample inputs, weights and constants that are no plain tensors) is left out or refused, so
that it holds JSON and the bytes of tensors alone; neither does it tell where the sources lay.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

from foundry_ray.compression.export import on_rows
from foundry_ray.compression.parity import Parity, compared
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.schemas import classes_only
from foundry_ray.types import Schema

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

FILE = "model.pt2"
_CONFIGS = "_config.json"
_SAMPLES = "/data/sample_inputs/"
_SOURCE_NOTES = ("stack_trace", "source_fn_stack", "from_node")


def to_torch_program(model: nn.Module, schema: Schema) -> bytes:
    """Export in fp32 with a free batch axis; takes seconds. `model` takes raw pixels as floats, or token ids; it is left unchanged.

    Raises:
        ConfigError: Rows have no class.
        RecipeInfeasible: torch cannot export this model, or only as a pickle.
    """
    import torch

    begun, rows, dynamic = on_rows(model, classes_only(schema, what="the export to torch"))
    try:
        with warnings.catch_warnings():
            # As in `export`: of the exporter's own internals.
            warnings.simplefilter("ignore")
            program: Any = torch.export.export(begun, (rows,), dynamic_shapes=dynamic)
            data = _saved(program)
    except Exception as error:  # the model's own code runs in there, and may raise anything
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise _refused(f"torch.export cannot take {type(model).__name__}: {told}") from error
    pickled = pickles(data)
    if pickled:
        raise _refused(f"torch.export would store {', '.join(pickled)} of {type(model).__name__} as a pickle")
    return data


def check_torch_program(model: nn.Module, data: bytes, rows_N: np.ndarray) -> Parity:
    """Prove that the file answers as the model does, as `parity.check_export` does for ONNX. Raises ParityFailed."""
    import torch

    loaded: Any = torch.export.load(io.BytesIO(data))
    with torch.inference_mode():
        actual = loaded.module()(torch.from_numpy(rows_N)).numpy()
    return compared(model, actual, rows_N, what=f"{FILE} of torch.export")


def pickles(data: bytes) -> tuple[str, ...]:
    """What in such a file would be unpickled when it is loaded; nothing in a file of ours."""
    found: list[str] = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            if _SAMPLES in info.filename and info.file_size:
                found.append(info.filename)
            if info.filename.endswith(_CONFIGS):
                entries = json.loads(archive.read(info))["config"]
                found += [name for name, entry in entries.items() if entry["use_pickle"]]
    return tuple(found)


def _saved(program: Any) -> bytes:
    """The bytes, the same each time."""
    import torch

    program._example_inputs = None  # which torch would pickle; loading does without
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            for note in _SOURCE_NOTES:
                node.meta.pop(note, None)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _refused(reason: str) -> RecipeInfeasible:
    return RecipeInfeasible(f"export: {reason}.", hint="set `export.torch_program: false`; model.onnx is served without it.", reason=reason)
