from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_ray.search.ranking import Ranking
from tests.unit.search import _naive as naive

COORDINATE = st.one_of(st.integers(0, 4).map(float), st.floats(0, 1, width=16), st.just(math.inf))
GROWING = st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(st.tuples(*[COORDINATE] * width), st.integers(0, 8)), min_size=1, max_size=25))


@settings(max_examples=150, deadline=None)
@given(GROWING, st.randoms(use_true_random=False))
def test_the_order_is_the_one_from_scratch_whatever_was_asked_between(steps: list[tuple[naive.Point, int]], source: random.Random) -> None:
    numbers = list(range(len(steps)))
    source.shuffle(numbers)
    ranking, points = Ranking(), {}
    for number, (point, looks) in zip(numbers, steps, strict=True):
        ranking.add(number, point)
        points[number] = point
        assert list(itertools.islice(ranking, looks)) == naive.order(points)[:looks]
    assert list(ranking) == naive.order(points)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 5).map(float)] * 3), min_size=1, max_size=30))
def test_layers_are_those_from_scratch(points: list[naive.Point]) -> None:
    ranking = Ranking()
    for number, point in enumerate(points):
        ranking.add(number, point)
    assert ranking.layers() == naive.layers(dict(enumerate(points))) == Ranking.of(dict(enumerate(points))).layers()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 5).map(float)] * 2), min_size=1, max_size=20), st.sets(st.integers(0, 19)), st.integers(0, 20))
def test_the_best_of_some_is_the_first_of_them_among_the_first(points: list[naive.Point], wanted: set[int], among: int) -> None:
    numbered = dict(enumerate(points))
    first = next((number for number in naive.order(numbered)[:among] if number in wanted), None)
    assert Ranking.of(numbered).best_of(wanted, among=among) == first


def test_points_of_one_plane_that_come_one_by_one_keep_their_order() -> None:
    draws = np.random.default_rng(0).dirichlet((1.0, 1.0, 1.0), 120)
    ranking, points = Ranking(), {}
    for number, draw in enumerate(draws.tolist()):
        points[number] = tuple(draw)
        ranking.add(number, points[number])
        first = list(itertools.islice(ranking, number // 3))
    assert len(ranking.layers()) == 1
    assert first == naive.order(points)[: len(first)]


def test_a_point_that_was_pushed_down_leaves_the_order_of_its_layer() -> None:
    ranking = Ranking.of({0: (0.0, 10.0), 1: (10.0, 0.0), 2: (5.0, 5.0)})
    assert list(ranking) == [0, 1, 2]
    ranking.add(3, (1.0, 5.0))
    assert list(ranking) == [0, 1, 3, 2]


@pytest.mark.parametrize("num_points", [0, 1])
def test_a_ranking_of_next_to_nothing_has_an_order(num_points: int) -> None:
    ranking = Ranking.of(dict.fromkeys(range(num_points), (1.0, 2.0)))
    assert list(ranking) == list(range(num_points))
    assert ranking.best_of({0}, among=5) == (0 if num_points else None)
