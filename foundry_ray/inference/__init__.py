"""The runtimes that serve a model: the same code measures, evaluates, predicts and answers requests.

Decides: session settings, the check of the input, what identifies a graph. Leaves to others: what the logits mean (tasks), when to
measure (evaluation), how requests arrive (serving). Importing this package loads neither onnxruntime nor torch.
"""

from foundry_ray.inference.graph import graph_sha256
from foundry_ray.inference.predicting import load_served, predict, predict_files, run_batched
from foundry_ray.inference.runtimes import Runtime, cpu_name, open_runtime, register, runtime_version

__all__ = [
    "Runtime",
    "cpu_name",
    "graph_sha256",
    "load_served",
    "open_runtime",
    "predict",
    "predict_files",
    "register",
    "run_batched",
    "runtime_version",
]
