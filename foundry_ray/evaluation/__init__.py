"""Judging: metrics with intervals, latency in the runtime that serves, gates. Teacher against student on test, opened here.

Importing this package loads neither torch nor onnxruntime.
"""

from foundry_ray.evaluation.comparing import evaluate
from foundry_ray.evaluation.gates import judge
from foundry_ray.evaluation.latency import RuntimeLatencyMeter, Served, measure_together
from foundry_ray.evaluation.quiet import QuietGate
from foundry_ray.evaluation.robustness import check_gates

__all__ = ["QuietGate", "RuntimeLatencyMeter", "Served", "check_gates", "evaluate", "judge", "measure_together"]
