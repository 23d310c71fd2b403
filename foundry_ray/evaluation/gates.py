"""Whether a student may be promoted: thresholds against measurements. Pure; a gate that fails is a result and not an error."""

from __future__ import annotations

from typing import Literal

from foundry_ray.config import GatesConfig
from foundry_ray.types import GateResult, MetricValue, ModelReport

# A drop of exactly 1.5 points must pass a limit of 1.5, although 0.97 - 0.955 is 0.015000000000000013.
_SLACK = 1e-9


def judge(
    gates: GatesConfig, teacher: ModelReport, student: ModelReport, agreement: MetricValue, *, metric: str = "accuracy"
) -> tuple[GateResult, ...]:
    """Every gate that is set, in a fixed order. Point estimates decide; the intervals stand in the report.

    Args:
        gates: The thresholds; None switches a gate off.
        teacher: The reference.
        student: The candidate. Its first latency is compared with the teacher's first.
        agreement: Share of equal predictions.
        metric: The task's primary metric; more is better.
    """
    drop_points = 100 * (teacher.metrics[metric].value - student.metrics[metric].value)
    results = [_gate("accuracy_drop_points", drop_points, "<=", gates.accuracy_drop_points)]
    ratios = {
        "latency_ratio": (student.latency[0].p50_ms, teacher.latency[0].p50_ms, gates.latency_ratio),
        "size_ratio": (student.size_bytes, teacher.size_bytes, gates.size_ratio),
        "params_ratio": (student.num_params, teacher.num_params, gates.params_ratio),
    }
    results += [_gate(name, mine / reference, "<=", limit) for name, (mine, reference, limit) in ratios.items() if limit is not None]
    if gates.min_agreement is not None:
        results.append(_gate("min_agreement", agreement.value, ">=", gates.min_agreement))
    return tuple(results)


def _gate(name: str, value: float, relation: Literal["<=", ">="], limit: float) -> GateResult:
    passed = value <= limit + _SLACK if relation == "<=" else value >= limit - _SLACK
    return GateResult(name=name, value=value, relation=relation, limit=limit, passed=passed)
