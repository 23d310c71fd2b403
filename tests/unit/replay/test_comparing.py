"""Points and verdicts: what two makings must share, and what they need not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foundry_ray.replay import Making, Outcome, Point, Verdict, compare, differences, judge
from foundry_ray.testing import samples
from foundry_ray.types import EvaluationReport, GateResult, LatencyResult, MetricValue, ModelReport

ORIGINAL = Making(data_fingerprint="d", teacher_weights="t", student_weights="s", served_file="o", report=samples.report())
OTHER_BYTES = {"student_weights": "s2", "served_file": "o2"}
TIMED = GateResult(name="latency_ratio", value=0.69, relation="<=", limit=0.7, passed=True)


def _points(original: Making, replayed: Making) -> tuple[Point, ...]:
    return compare(original, replayed, primary_metric="accuracy")


def _verdict(replayed: Making, original: Making = ORIGINAL) -> Verdict:
    return judge(_points(original, replayed))


def _with_student(report: EvaluationReport, student: ModelReport) -> EvaluationReport:
    return replace(report, student=student)


def _with_accuracy(value: float) -> EvaluationReport:
    student = ORIGINAL.report.student
    return _with_student(ORIGINAL.report, replace(student, metrics={"accuracy": replace(student.metrics["accuracy"], value=value)}))


def _with_gate(gate: GateResult) -> Making:
    return replace(ORIGINAL, report=replace(ORIGINAL.report, gates=(gate,)))


def _latency(p50_ms: float) -> tuple[LatencyResult, ...]:
    return (replace(ORIGINAL.report.student.latency[0], p50_ms=p50_ms),)


def test_the_same_bytes_are_identical() -> None:
    points = _points(ORIGINAL, ORIGINAL)
    assert judge(points) is Verdict.IDENTICAL
    assert {point.outcome for point in points} == {Outcome.EQUAL, Outcome.MEASURED}


@pytest.mark.parametrize("name", ["teacher_weights", "student_weights", "served_file"])
def test_one_other_hash_is_no_longer_identical(name: str) -> None:
    assert _verdict(replace(ORIGINAL, **{name: "other"})) is Verdict.EQUIVALENT


def test_other_bytes_with_metrics_inside_their_intervals_are_equivalent() -> None:
    assert _verdict(replace(ORIGINAL, **OTHER_BYTES, report=_with_accuracy(0.961))) is Verdict.EQUIVALENT


def test_a_metric_outside_its_recorded_interval_is_different() -> None:
    replayed = replace(ORIGINAL, **OTHER_BYTES, report=_with_accuracy(0.959))
    broken = [point for point in _points(ORIGINAL, replayed) if point.outcome is Outcome.DIFFERENT and point.kind == "metric"]
    assert [(point.name, point.original, point.replayed, point.interval) for point in broken] == [("student accuracy", 0.974, 0.959, (0.96, 0.98))]
    assert _verdict(replayed) is Verdict.DIFFERENT


def test_a_metric_that_is_gone_is_different() -> None:
    report = _with_student(ORIGINAL.report, replace(ORIGINAL.report.student, metrics={}))
    assert _verdict(replace(ORIGINAL, report=report)) is Verdict.DIFFERENT


def test_a_secondary_metric_outside_its_interval_is_told_and_decides_nothing() -> None:
    recall = MetricValue(value=1.0, ci_low=1.0, ci_high=1.0, n=13)
    original, replayed = (
        replace(ORIGINAL, report=_with_student(ORIGINAL.report, replace(ORIGINAL.report.student, metrics={"recall_3": found})))
        for found in (recall, replace(recall, value=0.9))
    )
    points = _points(original, replayed)
    assert [point.outcome for point in points if point.name == "student recall_3"] == [Outcome.OUTSIDE]
    assert judge(points) is Verdict.IDENTICAL


def test_another_count_is_different() -> None:
    report = _with_student(ORIGINAL.report, replace(ORIGINAL.report.student, num_params=60_001))
    assert _verdict(replace(ORIGINAL, **OTHER_BYTES, report=report)) is Verdict.DIFFERENT


def test_a_gate_that_says_something_else_is_different() -> None:
    gate = replace(ORIGINAL.report.gates[0], passed=False, value=3.1)
    assert _verdict(_with_gate(gate)) is Verdict.DIFFERENT


def test_a_gate_that_only_one_making_has_is_different() -> None:
    assert _verdict(replace(ORIGINAL, report=replace(ORIGINAL.report, gates=()))) is Verdict.DIFFERENT


def test_a_time_that_crossed_its_gate_leaves_the_same_bytes_identical() -> None:
    slower = replace(TIMED, value=0.71, passed=False)
    assert _verdict(_with_gate(slower), original=_with_gate(TIMED)) is Verdict.IDENTICAL
    assert _verdict(replace(_with_gate(slower), **OTHER_BYTES), original=_with_gate(TIMED)) is Verdict.DIFFERENT


def test_times_are_told_and_decide_nothing() -> None:
    report = _with_student(ORIGINAL.report, replace(ORIGINAL.report.student, latency=_latency(100.0)))
    points = _points(ORIGINAL, replace(ORIGINAL, report=report))
    assert [(point.original, point.replayed) for point in points if point.name == "student p50_ms, batch 1"] == [(0.1, 100.0)]
    assert judge(points) is Verdict.IDENTICAL


def test_a_reused_teacher_is_marked_as_such() -> None:
    points = compare(ORIGINAL, ORIGINAL, primary_metric="accuracy", is_teacher_reused=True)
    assert [point.name for point in points if point.outcome is Outcome.REUSED] == ["data fingerprint", "teacher weights"]
    assert judge(points) is Verdict.IDENTICAL


def test_what_changed_around_it_is_named_with_both_values() -> None:
    then, now = {"torch": "2.5", "ray": "2.60.0", "task": "aa"}, {"torch": "2.6", "ray": "2.60.0"}
    assert differences("library", then, now) == (
        "library task was aa when the version was made, and is absent now.",
        "library torch was 2.5 when the version was made, and is 2.6 now.",
    )


def test_times_are_told_of_the_same_batch_size() -> None:
    single = replace(ORIGINAL.report.student.latency[0], batch_size=1, p50_ms=1.0)
    before, after = (single, replace(single, batch_size=8, p50_ms=8.0)), (replace(single, batch_size=8, p50_ms=9.0),)
    makings = (
        replace(ORIGINAL, report=_with_student(ORIGINAL.report, replace(ORIGINAL.report.student, latency=latency))) for latency in (before, after)
    )
    times = [point for point in _points(*makings) if point.kind == "time" and point.name.startswith("student")]
    assert [(point.name, point.original, point.replayed) for point in times] == [("student p50_ms, batch 8", 8.0, 9.0)]
