from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_ray.search import pareto
from foundry_ray.types import Objective
from tests.unit.search import _naive as naive

SMALL = st.integers(0, 4).map(float)
POINTS = st.lists(st.tuples(SMALL, SMALL, SMALL), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_layers_and_order_are_those_of_the_definitions(points: list[tuple[float, ...]]) -> None:
    numbered = dict(enumerate(points))
    assert pareto.layers(points) == naive.layers(numbered)
    assert pareto.order(points) == naive.order(numbered)


@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_the_order_puts_no_point_before_one_that_dominates_it(points: list[tuple[float, ...]]) -> None:
    ranked = pareto.order(points)
    assert sorted(ranked) == list(range(len(points)))
    assert not any(naive.dominates(points[later], points[earlier]) for earlier, later in itertools.combinations(ranked, 2))


@settings(max_examples=60, deadline=None)
@given(POINTS)
def test_hypervolume_counts_the_dominated_unit_cells(points: list[tuple[float, ...]]) -> None:
    cells = itertools.product(range(5), repeat=3)
    covered = sum(any(all(low <= cell for low, cell in zip(point, corner, strict=True)) for point in points) for corner in cells)
    assert pareto.hypervolume(points, (5.0, 5.0, 5.0)) == covered


def test_hypervolume_refuses_four_objectives() -> None:
    with pytest.raises(ValueError, match="got 4 objectives, wanted 1 to 3"):
        pareto.hypervolume([(0.0,) * 4], (1.0,) * 4)


def test_with_one_objective_the_order_is_sorting() -> None:
    assert pareto.order([(3.0,), (1.0,), (2.0,), (1.0,)]) == [1, 3, 2, 0]


def test_latency_differences_below_the_floor_count_as_equal() -> None:
    objective = (Objective(metric="latency_p50_ms", mode="min"),)
    fast, slow, other = (pareto.losses({"latency_p50_ms": value}, objective) for value in (0.041, 0.099, 0.31))
    assert fast == slow
    assert slow < other


def test_a_point_without_a_metric_is_never_on_the_front() -> None:
    objectives = (Objective(metric="accuracy", mode="max"), Objective(metric="size_bytes", mode="min"))
    points = [pareto.losses(values, objectives) for values in ({"accuracy": 0.5, "size_bytes": 9.0}, {"size_bytes": 1.0}, {"accuracy": math.nan})]
    assert pareto.front(points) == [0]


def test_a_threshold_says_what_is_of_interest() -> None:
    objectives = (Objective(metric="accuracy", mode="max", threshold=0.9),)
    assert pareto.is_of_interest({"accuracy": 0.9}, objectives)
    assert not pareto.is_of_interest({"accuracy": 0.89}, objectives)


def test_a_point_that_misses_a_metric_comes_last_however_good_the_others_are() -> None:
    assert pareto.order([(math.inf, 0.0), (5.0, 5.0), (math.nan, -1.0), (1.0, 9.0)]) == [3, 1, 0, 2]


def test_all_of_equal_points_are_on_the_front() -> None:
    assert pareto.front([(1.0, 2.0), (2.0, 2.0), (1.0, 2.0), (2.0, 1.0)]) == [0, 2, 3]


REAL = st.tuples(*[st.floats(0, 1, width=32)] * 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(REAL, min_size=1, max_size=15))
def test_the_trace_is_the_hypervolume_of_all_points_so_far_in_its_box(points: list[tuple[float, ...]]) -> None:
    trace = pareto.HypervolumeTrace(pareto.Box(best=(0.25,) * 3, worst=(0.75, 1.0, 0.5)))
    for index, point in enumerate(points, 1):
        inside = [tuple(max(value, 0.25) for value in one) for one in points[:index]]
        assert math.isclose(trace.add(point), pareto.hypervolume(inside, (0.75, 1.0, 0.5)) / (0.5 * 0.75 * 0.25), abs_tol=1e-9)


def test_a_side_without_width_does_not_count() -> None:
    assert pareto.HypervolumeTrace(pareto.Box(best=(0.0, 3.0), worst=(1.0, 3.0))).add((0.25, 3.0)) == 0.75
    assert pareto.HypervolumeTrace(pareto.Box(best=(1.0, 3.0), worst=(1.0, 3.0))).add((1.0, 3.0)) == 0.0


def test_an_unknown_value_has_no_volume() -> None:
    trace = pareto.HypervolumeTrace(pareto.Box(best=(0.0, 0.0), worst=(1.0, 1.0)))
    assert trace.add((math.nan, 0.0)) == 0.0
    assert trace.add((0.5, 0.5)) == trace.add((0.0, math.inf)) == 0.25
    assert pareto.HypervolumeTrace(None).add((math.inf,)) == 0.0


def test_volume_counts_ratios_of_bytes_and_latency_and_differences_of_accuracy() -> None:
    metrics = (("accuracy", "max"), ("latency_p50_ms", "min"), ("size_bytes", "min"), ("num_params", "min"))
    objectives = [Objective(metric=name, mode=mode) for name, mode in metrics]
    large, small = (
        pareto.volume_point({"accuracy": accuracy, "latency_p50_ms": latency, "size_bytes": size, "num_params": 1}, objectives)
        for accuracy, latency, size in ((0.9, 0.8, 1e6), (0.8, 0.4, 5e5))
    )
    assert len(large) == pareto.MAX_COORDINATES
    assert [a - b for a, b in zip(large, small, strict=True)] == pytest.approx([-0.1, math.log(2), math.log(2)])


def test_a_latency_of_nothing_and_a_count_that_is_wanted_large_have_logarithms_too() -> None:
    objectives = [Objective(metric="latency_p50_ms", mode="min"), Objective(metric="num_params", mode="max")]
    assert pareto.volume_point({"latency_p50_ms": 0.0, "num_params": 100.0}, objectives) == (math.log(0.1), -math.log(100.0))
