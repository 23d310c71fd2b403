"""The one comparison that everything ends in: teacher, student, ratio, gate. Rows of text, shared by terminal and page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from foundry_ray.reporting import units
from foundry_ray.types import EvaluationReport, GateResult, LatencyResult, MetricValue, ModelReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line: what, both sides, the ratio or difference, and the gate (text, passed) where there is one."""

    name: str
    teacher: str
    student: str
    ratio: str
    gate: str = ""
    passed: bool | None = None


_SHOWN = {"accuracy_drop_points", "latency_ratio", "size_ratio", "params_ratio", "min_agreement"}
"""Gates that stand beside a number of their own."""
_DEFAULT_RUNTIME = "onnxruntime"


def rows(report: EvaluationReport) -> list[Row]:
    """The comparison table of a report."""
    teacher, student = report.teacher, report.student
    gates = {gate.name: gate for gate in report.gates}
    return [
        *_metric_rows(teacher, student, gates),
        _row("parameters", teacher.num_params, student.num_params, units.si_count, gates.get("params_ratio")),
        _row("MACs", teacher.num_macs, student.num_macs, units.si_count, None),
        _row("served file", teacher.size_bytes, student.size_bytes, units.si_bytes, gates.get("size_ratio")),
        *_latency_rows(teacher.latency, student.latency, gates),
        _agreement(report, gates),
        *_other_gates(gates),
    ]


def _other_gates(gates: Mapping[str, GateResult]) -> list[Row]:
    """Gates whose numbers no other row shows: the student's number, or its difference to the teacher."""
    found = []
    for name, gate in gates.items():
        if name not in _SHOWN:
            shown, passed = _gate(gate, "")
            found.append(Row(name=name, teacher="", student=f"{gate.value:.3g}", ratio="", gate=shown, passed=passed))
    return found


def _metric_rows(teacher: ModelReport, student: ModelReport, gates: Mapping[str, GateResult]) -> list[Row]:
    ours, theirs = student.metrics["accuracy"], teacher.metrics["accuracy"]
    shown, passed = _gate(gates.get("accuracy_drop_points"), " points")
    difference = f"{100 * (ours.value - theirs.value):+.2f} points"
    return [Row(name="accuracy", teacher=_interval(theirs), student=_interval(ours), ratio=difference, gate=shown, passed=passed)]


def _latency_rows(teacher: tuple[LatencyResult, ...], student: tuple[LatencyResult, ...], gates: Mapping[str, GateResult]) -> list[Row]:
    found = []
    for theirs, ours in zip(teacher, student, strict=True):
        gate = gates.get("latency_ratio") if theirs.batch_size == teacher[0].batch_size else None
        noisy = " (noisy)" if theirs.is_noisy or ours.is_noisy else ""
        suffix = f"batch {theirs.batch_size}{_places(theirs, ours)}{noisy}"
        found.append(_row(f"p50, {suffix}", theirs.p50_ms, ours.p50_ms, _ms, gate))
        found.append(_row(f"p95, {suffix}", theirs.p95_ms, ours.p95_ms, _ms, None))
    return found


def _places(theirs: LatencyResult, ours: LatencyResult) -> str:
    """The runtimes, teacher's first, where one of them is not the default."""
    names = dict.fromkeys(result.runtime.partition(" ")[0] for result in (theirs, ours))
    return "" if list(names) == [_DEFAULT_RUNTIME] else f" in {' and '.join(names)}"


def _agreement(report: EvaluationReport, gates: Mapping[str, GateResult]) -> Row:
    shown, passed = _gate(gates.get("min_agreement"), "")
    return Row(name="same answer", teacher="", student=_interval(report.agreement), ratio="", gate=shown, passed=passed)


def _row(name: str, theirs: float, ours: float, form: Callable[[float], str], gate: GateResult | None) -> Row:
    shown, passed = _gate(gate, "")
    return Row(name=name, teacher=form(theirs), student=form(ours), ratio=f"{units.ratio(theirs, ours)} less", gate=shown, passed=passed)


def _gate(gate: GateResult | None, unit: str) -> tuple[str, bool | None]:
    if gate is None:
        return "", None
    return f"{gate.value:.3g}{unit} {gate.relation} {gate.limit:g}", gate.passed


def _interval(metric: MetricValue) -> str:
    return f"{units.percent(metric.value)} [{100 * metric.ci_low:.1f}, {100 * metric.ci_high:.1f}]"


def _ms(number: float) -> str:
    return f"{number:.3f} ms"
