"""The runtimes that serve a model: the same code measures, evaluates, predicts and answers requests.

Decides: session settings, the check of the input, what identifies a graph. Leaves to others: what the logits mean (tasks), when to
measure (evaluation), how requests arrive (serving). Importing this package loads neither onnxruntime nor torch.
"""

from foundry_ray.inference.graph import graph_sha256
from foundry_ray.inference.hardware import cpu_name, device_name, has_exact_int8
from foundry_ray.inference.predicting import load_served, predict, predict_files, run_batched
from foundry_ray.inference.runtimes import (
    Runtime,
    check_precision,
    check_runtime,
    open_runtime,
    register,
    runtime_device,
    runtime_names,
    runtime_version,
)
from foundry_ray.inference.shipping import open_choice, open_shipped, runtime_meta, shipped_runtime

__all__ = [
    "Runtime",
    "check_precision",
    "check_runtime",
    "cpu_name",
    "device_name",
    "graph_sha256",
    "has_exact_int8",
    "load_served",
    "open_choice",
    "open_runtime",
    "open_shipped",
    "predict",
    "predict_files",
    "register",
    "run_batched",
    "runtime_device",
    "runtime_meta",
    "runtime_names",
    "runtime_version",
    "shipped_runtime",
]
