"""The statistics of latency, against times that are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from foundry_ray.evaluation.timing import sample, summarize
from foundry_ray.testing.clock import FakeClock


def test_the_interval_of_the_median_covers_it_in_95_of_100_cases():
    generator = np.random.default_rng(0)
    timings = [summarize(list(generator.exponential(1e-3, 100))) for _ in range(1000)]
    covered = np.mean([low <= np.log(2) <= high for low, high in (timing.ci_ms for timing in timings)])
    assert 0.93 <= covered <= 0.99


def test_median_and_p95_are_order_statistics_in_ms():
    timing = summarize([index / 1000 for index in range(100, 0, -1)])
    assert (timing.p50_ms, timing.p95_ms, timing.n) == (50.5, 95.0, 100)
    assert timing.ci_ms == (41.0, 61.0)
    assert timing.is_wide


def test_one_time_is_its_own_interval():
    assert summarize([0.002]).ci_ms == (2.0, 2.0)
    with pytest.raises(ValueError, match="got 0 times"):
        summarize([])


def test_steady_times_end_early_and_blocks_alternate():
    clock, order = FakeClock(0.0), []

    def run(name, cost_s):
        order.append(name)
        clock.advance(cost_s)

    first, second = sample([lambda: run("a", 0.001), lambda: run("b", 0.002)], budget_s=100, clock=clock)
    assert (len(first), len(second)) == (100, 100)
    assert summarize(first).p50_ms == pytest.approx(1.0)
    assert summarize(second).p50_ms == pytest.approx(2.0)
    switches = sum(before != after for before, after in itertools.pairwise(order))
    assert switches == 9


def test_unsteady_times_spend_the_budget_and_no_more():
    clock = FakeClock(0.0)
    generator = np.random.default_rng(0)
    [times] = sample([lambda: clock.advance(float(generator.uniform(0.001, 0.003)))], budget_s=2.0, clock=clock)
    assert 2.0 <= sum(times) < 2.1
    assert clock.monotonic_s() < 2.3


def test_the_first_runs_are_warm_up_and_do_not_count():
    clock, costs_s = FakeClock(0.0), iter([1.0] + [0.001] * 1000)
    [times] = sample([lambda: clock.advance(next(costs_s))], budget_s=20, clock=clock)
    assert max(times) == pytest.approx(0.001)
