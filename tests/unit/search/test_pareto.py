from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_ray.search import pareto
from foundry_ray.types import Objective

SMALL = st.integers(0, 4).map(float)
POINTS = st.lists(st.tuples(SMALL, SMALL, SMALL), min_size=1, max_size=12)


def _layer_by_definition(points: list[tuple[float, ...]], alive: set[int]) -> set[int]:
    return {one for one in alive if not any(pareto.dominates(points[other], points[one]) for other in alive)}


@settings(max_examples=150, deadline=None)
@given(POINTS)
def test_layers_are_what_nothing_left_dominates(points: list[tuple[float, ...]]) -> None:
    alive = set(range(len(points)))
    for layer in pareto.layers(points):
        assert set(layer) == _layer_by_definition(points, alive)
        alive -= set(layer)
    assert not alive


@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_the_order_puts_no_point_before_one_that_dominates_it(points: list[tuple[float, ...]]) -> None:
    ranked = pareto.order(points)
    assert sorted(ranked) == list(range(len(points)))
    assert not any(pareto.dominates(points[later], points[earlier]) for earlier, later in itertools.combinations(ranked, 2))


@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_each_step_of_the_epsilon_net_takes_the_farthest_point(points: list[tuple[float, ...]]) -> None:
    places = pareto.scaled(points)
    taken = pareto.epsilon_net(points)
    for step in range(1, len(taken)):
        reach = {index: min(math.dist(places[index], places[one]) for one in taken[:step]) for index in taken[step:]}
        assert math.isclose(reach[taken[step]], max(reach.values()), abs_tol=1e-9)


def test_the_epsilon_net_begins_with_the_best_in_the_first_objective() -> None:
    assert pareto.epsilon_net([(3.0, 0.0), (1.0, 5.0), (2.0, 1.0)])[0] == 1


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
