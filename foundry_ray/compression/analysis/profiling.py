"""Where the time of a served graph goes: onnxruntime's own profile of each operator, laid at the door of the layer whose weights it reads.

Operators and tensors are named after that layer before the runtime fuses them, and it keeps the names. What changes a layer's output element by
element counts for that layer; any other operator that reads no weights belongs to none.
Measured on one thread on the CPU, after a warm-up.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.inference import open_runtime
from foundry_ray.inference.rows import noise

if TYPE_CHECKING:
    import numpy as np
    import onnx as onnx_types

_WARM_UP = 5
_RUNS = 40
_MARK = "@"
_ELEMENTWISE = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Gelu", "Add", "Mul", "Div", "Sub")


def time_by_layer(onnx: bytes, layers: Iterable[str]) -> tuple[float, Mapping[str, float], Mapping[str, float]]:
    """Milliseconds of one sample in all, by layer, and by kind of operator for what belongs to no layer: the medians over 40 runs.

    Args:
        onnx: The exported fp32 file.
        layers: Names of the model's layers.
    """
    import numpy as np

    marked = _marked(onnx, list(layers))
    rows = noise(open_runtime(onnx), 1, np.random.default_rng(0))
    spent = _profiled(marked, rows)
    medians = {key: float(np.median(list(values.values()) + [0.0] * (_RUNS - len(values)))) / 1000 for key, values in spent.items()}
    by_layer = {name: value for (name, _), value in medians.items() if name}
    by_kind = {kind: value for (name, kind), value in medians.items() if not name}
    return sum(medians.values()), by_layer, by_kind


def _marked(onnx: bytes, layers: list[str]) -> bytes:
    """The file with each operator, and each tensor that it makes, called `@layer@number`: the runtime names what it fuses after either.

    The layer is the one whose parameters are among the inputs, or whose output an elementwise operator changes; empty where there is none.
    """
    import onnx as onnx_library

    model = onnx_library.load_model_from_string(onnx)
    ends = {value.name for value in model.graph.output}
    owners: dict[str, str] = {}
    renamed: dict[str, str] = {}
    for number, node in enumerate(model.graph.node):
        layer = _layer_of(node, layers)
        if not layer and node.op_type in _ELEMENTWISE:
            layer = next((owners[name] for name in node.input if owners.get(name)), "")
        owners.update(dict.fromkeys(node.output, layer))
        node.name = f"{_MARK}{layer}{_MARK}{number}"
        node.input[:] = [renamed.get(name, name) for name in node.input]
        for place, name in enumerate(node.output):
            if name and name not in ends:
                renamed[name] = node.output[place] = f"{node.name}.{place}"
    model.graph.ClearField("value_info")
    marked: bytes = model.SerializeToString()
    return marked


def _layer_of(node: onnx_types.NodeProto, layers: list[str]) -> str:
    found = [layer for name in node.input for layer in layers if layer and name.startswith(f"{layer}.")]
    return max(found, key=len, default="")


def _profiled(onnx: bytes, rows: np.ndarray) -> dict[tuple[str, str], dict[int, float]]:
    """Microseconds of each run, by (layer, ""), or ("", kind of operator) where there is no layer."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: rows}
        for _ in range(_WARM_UP + _RUNS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[tuple[str, str], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    begun = sorted(event["ts"] for event in events if event.get("cat") == "Session" and event["name"] == "model_run")
    first = begun[_WARM_UP]
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time") or event["ts"] < first:
            continue
        number = sum(start <= event["ts"] for start in begun)
        layer = next(iter(event["name"].split(_MARK)[1:2]), "")
        spent[layer, "" if layer else event["args"]["op_name"]][number] += event["dur"]
    return spent
