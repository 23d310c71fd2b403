"""The verdict on a new version."""

from __future__ import annotations

import math

import pytest

from foundry_ray.serving.rollout import Verdict, Window, decide, percentile


@pytest.mark.parametrize(
    ("window", "verdict", "reason"),
    [
        (Window(latencies_ms=(5.0,) * 20), Verdict.PROMOTE, "p95 of 20 requests is 5.0 ms, within 50 ms"),
        (Window(latencies_ms=(5.0,) * 18 + (90.0,) * 2), Verdict.HOLD, "p95 of 20 requests is 90.0 ms, wanted 50 ms at most"),
        (Window(latencies_ms=(5.0,) * 19 + (90.0,)), Verdict.PROMOTE, "within"),
        (Window(latencies_ms=(5.0,) * 19, num_errors=1), Verdict.ROLLBACK, "1 of 20 requests failed, wanted 0% at most"),
        (Window(num_errors=3), Verdict.ROLLBACK, "3 of 3 requests failed"),
        (Window(latencies_ms=(5.0,) * 2), Verdict.HOLD, "2 requests were seen, wanted 5 at least"),
        (Window(), Verdict.HOLD, "0 requests were seen"),
    ],
)
def test_the_verdict_follows_errors_then_p95(window: Window, verdict: Verdict, reason: str) -> None:
    decision = decide(window, slo_p95_ms=50.0)
    assert decision.verdict is verdict
    assert reason in decision.reason


def test_some_errors_may_be_allowed() -> None:
    assert decide(Window(latencies_ms=(1.0,) * 99, num_errors=1), slo_p95_ms=50, max_error_ratio=0.01).verdict is Verdict.PROMOTE


def test_percentile_is_a_value_that_occurred() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.95) == 3.0
    assert math.isnan(percentile([], 0.5))
