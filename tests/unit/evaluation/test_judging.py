"""Intervals and gates: pure functions with known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foundry_ray.config import AttackGate, CorruptionGate, GatesConfig, semantic
from foundry_ray.evaluation import judge, metrics
from foundry_ray.tasks import get
from foundry_ray.types import LatencyResult, MetricValue, ModelReport


def report(accuracy: float, *, p50_ms: float = 1.0, size_bytes: int = 1000, num_params: int = 100) -> ModelReport:
    value = MetricValue(value=accuracy, ci_low=0.0, ci_high=1.0, n=1000)
    time = LatencyResult(
        graph_sha256="g", device="cpu", runtime="r", threads=1, batch_size=1, p50_ms=p50_ms, p95_ms=p50_ms, ci_ms=(p50_ms, p50_ms), n=100
    )
    return ModelReport(model_sha256="m", num_params=num_params, num_macs=0, size_bytes=size_bytes, metrics={"accuracy": value}, latency=(time,))


AGREEMENT = MetricValue(value=0.98, ci_low=0.97, ci_high=0.99, n=1000)


def test_every_gate_that_is_set_is_judged_in_order():
    gates = GatesConfig(accuracy_drop_points=1.5, latency_ratio=0.7, size_ratio=0.125, params_ratio=0.125, min_agreement=0.99)
    student = report(0.96, p50_ms=0.5, size_bytes=100, num_params=20)
    results = judge(gates, report(0.97), student, AGREEMENT)
    assert [(result.name, result.passed) for result in results] == [
        ("accuracy_drop_points", True),
        ("latency_ratio", True),
        ("size_ratio", True),
        ("params_ratio", False),
        ("min_agreement", False),
    ]
    assert results[3].value == pytest.approx(0.2)
    assert (results[4].relation, results[4].limit, results[4].value) == (">=", 0.99, 0.98)


def test_gates_that_are_off_are_absent():
    assert [result.name for result in judge(GatesConfig(), report(0.9), report(0.9), AGREEMENT)] == ["accuracy_drop_points"]


def measured(side: ModelReport, **values: float) -> ModelReport:
    """A report with more metrics."""
    found = {name: MetricValue(value=value, ci_low=0.0, ci_high=1.0, n=1000) for name, value in values.items()}
    return replace(side, metrics={**side.metrics, **found})


def test_each_further_gate_says_what_was_measured_and_what_was_wanted():
    gates = GatesConfig(
        latency_p50_ms=0.4,
        latency_p95_ms=0.6,
        class_drop_points=2.0,
        calibration_error=0.05,
        calibration_increase=0.02,
        corruptions=CorruptionGate(min_accuracy=0.8, drop_points=3.0),
        attacks=(AttackGate(kind="fgsm", epsilon=4, min_accuracy=0.5), AttackGate(kind="pgd", epsilon=4, steps=7, drop_points=1.0)),
    )
    teacher = measured(report(0.97), calibration_error=0.03, corrupted_accuracy=0.84, fgsm_4_accuracy=0.9, pgd_4_7_accuracy=0.41)
    student = measured(
        report(0.96, p50_ms=0.5),
        largest_class_drop=0.031,
        calibration_error=0.04,
        corrupted_accuracy=0.79,
        fgsm_4_accuracy=0.6,
        pgd_4_7_accuracy=0.40,
    )
    results = {result.name: result for result in judge(gates, teacher, student, AGREEMENT)}
    assert {name: round(result.value, 6) for name, result in results.items()} == {
        "accuracy_drop_points": 1.0,
        "latency_p50_ms": 0.5,
        "latency_p95_ms": 0.5,
        "class_drop_points": 3.1,
        "calibration_error": 0.04,
        "calibration_increase": 0.01,
        "corruptions.min_accuracy": 0.79,
        "corruptions.drop_points": 5.0,
        "fgsm_4.min_accuracy": 0.6,
        "pgd_4_7.drop_points": 1.0,
    }
    failed = [(name, result.relation, result.limit) for name, result in results.items() if not result.passed]
    assert failed == [
        ("latency_p50_ms", "<=", 0.4),
        ("class_drop_points", "<=", 2.0),
        ("corruptions.min_accuracy", ">=", 0.8),
        ("corruptions.drop_points", "<=", 3.0),
    ]


def test_a_gate_that_is_absent_changes_no_key_of_what_was_judged_before():
    before = {"accuracy_drop_points", "latency_ratio", "size_ratio", "params_ratio", "min_agreement"}
    assert set(semantic(GatesConfig())) == before
    assert set(semantic(GatesConfig(calibration_error=0.1))) == before | {"calibration_error"}


@pytest.mark.parametrize(("accuracy", "passed"), [(0.955, True), (0.954, False), (0.99, True)])
def test_a_drop_of_exactly_the_limit_passes(accuracy, passed):
    [result] = judge(GatesConfig(accuracy_drop_points=1.5), report(0.97), report(accuracy), AGREEMENT)
    assert result.passed is passed


def test_wilson_gives_the_published_interval_and_stays_inside_the_range():
    value = metrics.wilson(81, 263)
    assert (value.ci_low, value.ci_high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.wilson(10, 10).ci_high == pytest.approx(1.0)
    assert metrics.wilson(0, 10).ci_low == pytest.approx(0.0)
    with pytest.raises(ValueError, match="got n=0"):
        metrics.wilson(0, 0)


def test_a_paired_interval_is_narrower_than_two_apart():
    generator = np.random.default_rng(0)
    teacher = (generator.random(1000) < 0.97).astype(float)
    student = teacher.copy()
    student[:5] = 1 - student[:5]
    drop = metrics.paired_drop(teacher, student)
    apart = metrics.mean(teacher)
    assert drop.value == pytest.approx(teacher.mean() - student.mean())
    assert drop.ci_low <= drop.value <= drop.ci_high
    assert drop.ci_high - drop.ci_low < (apart.ci_high - apart.ci_low) / 2
    assert drop == metrics.paired_drop(teacher, student)


def test_scores_that_are_no_shares_get_a_bootstrap_interval():
    scores = np.random.default_rng(0).normal(3.0, 1.0, 400)
    value = metrics.mean(scores)
    assert value.ci_high - value.ci_low == pytest.approx(4 / np.sqrt(400), rel=0.2)
    assert value.ci_low < value.value < value.ci_high


def test_all_metrics_of_a_task_have_intervals():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 300)
    logits = np.eye(3)[labels] * 2 + generator.normal(size=(300, 3))
    found = metrics.all_metrics(get("image_classification"), logits, labels)
    assert found["accuracy"] == metrics.wilson(float((logits.argmax(1) == labels).sum()), 300)
    assert {"nll", "recall_0", "recall_2"} <= set(found)
    assert all(value.ci_low <= value.value <= value.ci_high for value in found.values())
    assert found["nll"].ci_low < found["nll"].ci_high


def test_agreement_is_the_share_of_equal_predictions():
    assert metrics.agreement(np.eye(4), np.eye(4)[[0, 1, 2, 2]]).value == 0.75
