from __future__ import annotations

from dataclasses import replace

import pytest

from foundry_ray.errors import SearchSpaceError
from foundry_ray.search.samplers import grid
from foundry_ray.types import Param, SearchSpace
from tests.unit.search import _sampling as small

DEPTH = Param(name="depth", kind="int", low=1, high=3)
TWICE = Param(name="again", kind="categorical", choices=("yes", "no"), when={"depth": (3,)})
SPACE = SearchSpace(params=(TWICE, DEPTH, small.BITS, small.RATIO), objectives=(small.ACCURACY,))


def test_a_grid_holds_each_point_once_with_its_conditions() -> None:
    points = grid.points(SPACE)
    assert len(points) == len({frozenset(point.items()) for point in points}) == (2 + 2) * 2 * 13
    assert all(("again" in point) == (point["depth"] == 3) for point in points)
    assert {point["ratio"] for point in points} == {round(0.05 * step, 12) for step in range(13)}


def test_a_grid_leaves_out_what_breaks_a_relation() -> None:
    assert len(grid.points(replace(SPACE, relations=("depth * bits <= 32",)))) == (3 + 1 + 1) * 13


def test_a_study_of_a_grid_tries_every_point_once() -> None:
    one = small.sampler("grid", SPACE)
    assert one.size == 104
    records = {}
    for number in range(104):
        records[number] = small.record(number, one.propose(records, number).params)
    assert len({frozenset(record.trial.params.items()) for record in records.values()}) == 104
    with pytest.raises(SearchSpaceError, match="trial 104 was asked of a grid of 104 points, which are all tried"):
        one.propose(records, 104)


def test_a_grid_passes_over_points_that_came_from_elsewhere() -> None:
    first = small.sampler("grid", SPACE).propose({}, 0)
    assert small.sampler("grid", SPACE).propose({0: small.record(0, first.params)}, 1).params != first.params


def test_the_seed_shuffles_the_grid() -> None:
    assert small.sampler("grid", SPACE).propose({}, 0) == small.sampler("grid", SPACE).propose({}, 0)
    assert len({repr(small.sampler("grid", SPACE, seed=seed).propose({}, 0)) for seed in range(5)}) > 1


def test_a_continuous_parameter_has_no_grid() -> None:
    with pytest.raises(SearchSpaceError, match=r"alpha is continuous from 0\.3 to 0\.95, wanted finitely many values") as caught:
        grid.points(replace(SPACE, params=(small.ALPHA,)))
    assert "give `params.alpha` a `step`" in caught.value.hint


def test_a_grid_without_end_is_refused() -> None:
    wide = tuple(Param(name=f"p{index}", kind="int", low=1, high=100) for index in range(5))
    with pytest.raises(SearchSpaceError, match="more than 100,000 points"):
        grid.points(SearchSpace(params=wide))


def test_a_grid_without_a_point_is_refused() -> None:
    with pytest.raises(SearchSpaceError, match="none of 104 points of the grid keeps all relations"):
        grid.points(replace(SPACE, relations=("depth * bits <= 2",)))
