"""Whether two makings of one version are the same: point by point, and a verdict. Pure.

    identical    the same bytes: teacher's weights, student's weights, served file
    equivalent   other bytes; every count is equal, every metric lies in the recorded 95 % interval, every gate says the same
    different    anything else

The metrics that decide are the task's primary one, the student's drop in it, and the share of equal answers. The others are told: of twenty
intervals at 95 % one fails by chance, and those of a class with a dozen rows are hardly any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from foundry_ray.types import EvaluationReport, GateResult, MetricValue, ModelReport, Scalar

_TIMED_GATES = ("gate latency_ratio", "gate latency_p50_ms", "gate latency_p95_ms")
_SLACK = 1e-9  # an interval that is one point must hold that point


class Outcome(StrEnum):
    """What became of one point.

    WITHIN and OUTSIDE are of an interval; OUTSIDE is told and decides nothing. REUSED: taken from the original and not made again. MEASURED: a time,
    which decides nothing either.
    """

    EQUAL = "equal"
    WITHIN = "within"
    OUTSIDE = "outside"
    DIFFERENT = "different"
    REUSED = "reused"
    MEASURED = "measured"


class Verdict(StrEnum):
    """See the module's docstring."""

    IDENTICAL = "identical"
    EQUIVALENT = "equivalent"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One thing that both makings have. `interval` is the recorded 95 % interval of a metric."""

    name: str
    kind: Literal["bytes", "count", "metric", "secondary", "gate", "time"]
    original: Scalar
    replayed: Scalar
    outcome: Outcome
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What one making of a version came to: hashes of its bytes, and its report."""

    data_fingerprint: str
    teacher_weights: str
    student_weights: str
    served_file: str
    report: EvaluationReport


def compare(original: Making, replayed: Making, *, primary_metric: str, is_teacher_reused: bool = False) -> tuple[Point, ...]:
    """Every point, bytes first.

    Args:
        original: As recorded.
        replayed: As made again.
        primary_metric: The task's.
        is_teacher_reused: Data and teacher were taken from the original.
    """
    return (
        *_bytes(original, replayed, is_teacher_reused=is_teacher_reused),
        *_counts("teacher", original.report.teacher, replayed.report.teacher),
        *_counts("student", original.report.student, replayed.report.student),
        *_metrics(original.report, replayed.report, primary_metric),
        *_gates(original.report.gates, replayed.report.gates),
        *_times(original.report, replayed.report),
    )


def judge(points: Sequence[Point]) -> Verdict:
    """The verdict. Equal bytes whose latency gate says something else are identical: a time was taken twice, and the file is the same."""
    is_same_bytes = all(point.outcome is not Outcome.DIFFERENT for point in points if point.kind == "bytes")
    broken = [point for point in points if point.kind != "bytes" and point.outcome is Outcome.DIFFERENT]
    if is_same_bytes and all(point.name in _TIMED_GATES for point in broken):
        return Verdict.IDENTICAL
    return Verdict.DIFFERENT if broken else Verdict.EQUIVALENT


def differences(kind: str, original: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """What the surroundings have become since, one sentence a name, with both values; a name that only one side has counts."""
    return tuple(
        f"{kind} {name} was {original.get(name, 'not recorded')} when the version was made, and is {now.get(name, 'absent')} now."
        for name in sorted({*original, *now})
        if original.get(name) != now.get(name)
    )


def _bytes(original: Making, replayed: Making, *, is_teacher_reused: bool) -> Iterator[Point]:
    pairs = {
        "data fingerprint": (original.data_fingerprint, replayed.data_fingerprint),
        "teacher weights": (original.teacher_weights, replayed.teacher_weights),
        "student weights": (original.student_weights, replayed.student_weights),
        "model.onnx": (original.served_file, replayed.served_file),
    }
    for name, (before, after) in pairs.items():
        is_reused = is_teacher_reused and name in ("data fingerprint", "teacher weights") and before == after
        yield Point(name=name, kind="bytes", original=before, replayed=after, outcome=Outcome.REUSED if is_reused else _equality(before, after))


def _counts(side: str, original: ModelReport, replayed: ModelReport) -> Iterator[Point]:
    for name in ("num_params", "num_macs"):
        before, after = getattr(original, name), getattr(replayed, name)
        yield Point(name=f"{side} {name}", kind="count", original=before, replayed=after, outcome=_equality(before, after))


def _metrics(original: EvaluationReport, replayed: EvaluationReport, primary: str) -> Iterator[Point]:
    for side, before, after in (("teacher", original.teacher, replayed.teacher), ("student", original.student, replayed.student)):
        for name in sorted(before.metrics):
            decides = name in (primary, f"{primary}_drop")
            yield _metric(f"{side} {name}", before.metrics[name], after.metrics.get(name), decides=decides)
    yield _metric("same answer", original.agreement, replayed.agreement, decides=True)


def _metric(name: str, original: MetricValue, replayed: MetricValue | None, *, decides: bool) -> Point:
    return Point(
        name=name,
        kind="metric" if decides else "secondary",
        original=original.value,
        replayed="absent" if replayed is None else replayed.value,
        outcome=_nearness(original, replayed, decides=decides),
        interval=(original.ci_low, original.ci_high),
    )


def _nearness(original: MetricValue, replayed: MetricValue | None, *, decides: bool) -> Outcome:
    if replayed is not None and replayed.value == original.value:
        return Outcome.EQUAL
    if replayed is not None and original.ci_low - _SLACK <= replayed.value <= original.ci_high + _SLACK:
        return Outcome.WITHIN
    return Outcome.DIFFERENT if decides else Outcome.OUTSIDE


def _gates(original: Sequence[GateResult], replayed: Sequence[GateResult]) -> Iterator[Point]:
    before, after = ({gate.name: gate for gate in gates} for gates in (original, replayed))
    for name in sorted({*before, *after}):
        outcome = _equality(*(gates[name].passed if name in gates else None for gates in (before, after)))
        yield Point(name=f"gate {name}", kind="gate", original=_said(before.get(name)), replayed=_said(after.get(name)), outcome=outcome)


def _said(gate: GateResult | None) -> str:
    if gate is None:
        return "absent"
    return f"{'passed' if gate.passed else 'failed'}: {gate.value:.3g} {gate.relation} {gate.limit:g}"


def _times(original: EvaluationReport, replayed: EvaluationReport) -> Iterator[Point]:
    for side, before, after in (("teacher", original.teacher, replayed.teacher), ("student", original.student, replayed.student)):
        now = {result.batch_size: result.p50_ms for result in after.latency}
        for then in (result for result in before.latency if result.batch_size in now):
            name = f"{side} p50_ms, batch {then.batch_size}"
            yield Point(name=name, kind="time", original=then.p50_ms, replayed=now[then.batch_size], outcome=Outcome.MEASURED)


def _equality(original: Scalar | None, replayed: Scalar | None) -> Outcome:
    return Outcome.EQUAL if original == replayed else Outcome.DIFFERENT
