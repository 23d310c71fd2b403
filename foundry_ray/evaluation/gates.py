"""Whether a student may be promoted: thresholds against measurements. Pure; a gate that fails is a result and not an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from foundry_ray.config import GatesConfig
from foundry_ray.evaluation.robustness import CORRUPTED, attack_metric
from foundry_ray.types import GateResult, MetricValue, ModelReport

CLASS_DROP = "largest_class_drop"
CALIBRATION = "calibration_error"
# A drop of exactly 1.5 points must pass a limit of 1.5, although 0.97 - 0.955 is 0.015000000000000013.
_SLACK = 1e-9


def judge(
    gates: GatesConfig, teacher: ModelReport, student: ModelReport, agreement: MetricValue, *, metric: str = "accuracy"
) -> tuple[GateResult, ...]:
    """Every gate that is set, in a fixed order. Point estimates decide; the intervals stand in the report.

    Args:
        gates: The thresholds; None switches a gate off.
        teacher: The reference, with the metrics that the gates ask for.
        student: The candidate, likewise. Its first latency is compared with the teacher's first.
        agreement: Share of equal predictions.
        metric: The task's primary metric; more is better.
    """
    return (
        _gate("accuracy_drop_points", _lost_points(teacher, student, metric), "<=", gates.accuracy_drop_points),
        *_costs(gates, teacher, student),
        *_answers(gates, teacher, student, agreement),
        *_robustness(gates, teacher, student),
    )


def _costs(gates: GatesConfig, teacher: ModelReport, student: ModelReport) -> Iterator[GateResult]:
    ours, theirs = student.latency[0], teacher.latency[0]
    yield from _if_set("latency_ratio", ours.p50_ms / theirs.p50_ms, "<=", gates.latency_ratio)
    yield from _if_set("size_ratio", student.size_bytes / teacher.size_bytes, "<=", gates.size_ratio)
    yield from _if_set("params_ratio", student.num_params / teacher.num_params, "<=", gates.params_ratio)
    yield from _if_set("latency_p50_ms", ours.p50_ms, "<=", gates.latency_p50_ms)
    yield from _if_set("latency_p95_ms", ours.p95_ms, "<=", gates.latency_p95_ms)


def _answers(gates: GatesConfig, teacher: ModelReport, student: ModelReport, agreement: MetricValue) -> Iterator[GateResult]:
    yield from _if_set("min_agreement", agreement.value, ">=", gates.min_agreement)
    if gates.class_drop_points is not None:
        yield _gate("class_drop_points", 100 * student.metrics[CLASS_DROP].value, "<=", gates.class_drop_points)
    if gates.calibration_error is not None:
        yield _gate("calibration_error", student.metrics[CALIBRATION].value, "<=", gates.calibration_error)
    if gates.calibration_increase is not None:
        increase = student.metrics[CALIBRATION].value - teacher.metrics[CALIBRATION].value
        yield _gate("calibration_increase", increase, "<=", gates.calibration_increase)


def _robustness(gates: GatesConfig, teacher: ModelReport, student: ModelReport) -> Iterator[GateResult]:
    asked = [("corruptions", CORRUPTED, gates.corruptions)] if gates.corruptions is not None else []
    for name, metric, gate in [*asked, *((attack.name, attack_metric(attack), attack) for attack in gates.attacks)]:
        yield from _if_set(f"{name}.min_accuracy", student.metrics[metric].value, ">=", gate.min_accuracy)
        yield from _if_set(f"{name}.drop_points", _lost_points(teacher, student, metric), "<=", gate.drop_points)


def _lost_points(teacher: ModelReport, student: ModelReport, metric: str) -> float:
    return 100 * (teacher.metrics[metric].value - student.metrics[metric].value)


def _if_set(name: str, value: float, relation: Literal["<=", ">="], limit: float | None) -> Iterator[GateResult]:
    if limit is not None:
        yield _gate(name, value, relation, limit)


def _gate(name: str, value: float, relation: Literal["<=", ">="], limit: float) -> GateResult:
    passed = value <= limit + _SLACK if relation == "<=" else value >= limit - _SLACK
    return GateResult(name=name, value=value, relation=relation, limit=limit, passed=passed)
