from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_ray.errors import SearchSpaceError
from foundry_ray.search import points
from foundry_ray.types import Param, Scalar, SearchSpace

WIDTH = Param(name="width", kind="int", low=8, high=33, step=8)
LR = Param(name="lr", kind="float", low=1e-4, high=1e-1, log=True)
OPTIMIZER = Param(name="optimizer", kind="categorical", choices=("adamw", "sgd", "lion"))
MOMENTUM = Param(name="momentum", kind="float", low=0.5, high=0.9, step=0.1, when={"optimizer": ("sgd",)})
SPACE = SearchSpace(params=(MOMENTUM, WIDTH, LR, OPTIMIZER))


def _is_of(value: Scalar, param: Param) -> bool:
    if param.kind == "categorical":
        return value in param.choices
    low, high = points.limits(param)
    is_on_grid = not param.step or math.isclose((float(value) - low) / param.step, round((float(value) - low) / param.step), abs_tol=1e-6)
    return low <= float(value) <= high and is_on_grid and isinstance(value, int if param.kind == "int" else float)


@given(seed=st.integers(0, 2**31))
def test_drawn_points_lie_in_their_ranges_and_have_what_their_conditions_say(seed: int) -> None:
    by_name = {param.name: param for param in SPACE.params}
    for point in points.drawn(SPACE, seed=seed, num_draws=20):
        assert all(_is_of(value, by_name[name]) for name, value in point.items())
        assert ("momentum" in point) == (point["optimizer"] == "sgd")


@given(seed=st.integers(0, 2**31))
def test_drawn_points_keep_the_relations(seed: int) -> None:
    space = SearchSpace(params=SPACE.params, relations=("width * lr <= 0.2", "momentum + lr > 0.7"))
    for point in points.drawn(space, seed=seed, num_draws=50):
        assert float(point["width"]) * float(point["lr"]) <= 0.2
        assert "momentum" not in point or float(point["momentum"]) + float(point["lr"]) > 0.7


def test_equal_seeds_draw_equal_points() -> None:
    first, again, other = (list(points.drawn(SPACE, seed=seed, num_draws=10)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_logarithmic_range_is_drawn_evenly_on_its_scale() -> None:
    drawn = [float(point["lr"]) for point in points.drawn(SPACE, seed=0)]
    assert 0.45 < sum(lr < math.sqrt(1e-4 * 1e-1) for lr in drawn) / len(drawn) < 0.55


def test_corners_reach_every_end_choice_and_condition() -> None:
    seen = {(name, value) for point in points.corners(SPACE) for name, value in point.items()}
    assert {("width", 8), ("width", 32), ("lr", 1e-4), ("lr", 1e-1), ("momentum", 0.5), ("momentum", 0.9)} <= seen
    assert {value for name, value in seen if name == "optimizer"} == {"adamw", "sgd", "lion"}


def test_probes_are_points_that_a_trial_can_have() -> None:
    space = SearchSpace(params=SPACE.params, relations=("width <= 16",))
    probed = list(points.probes(space))
    assert {point["width"] for point in probed} == {8, 16}


def test_a_relation_that_no_point_keeps_is_named() -> None:
    space = SearchSpace(params=SPACE.params, relations=("width >= 8", "width * 2 < 16"))
    with pytest.raises(SearchSpaceError, match=r"my\.yaml: relation 'width \* 2 < 16' holds at none of 2,000 points") as caught:
        points.check_relations(space, where="my.yaml")
    assert caught.value.hint


def test_relations_that_contradict_each_other_are_named_together() -> None:
    space = SearchSpace(params=SPACE.params, relations=("width >= 16", "width < 16"))
    with pytest.raises(SearchSpaceError, match="relations 'width >= 16', 'width < 16' hold together at none"):
        points.check_relations(space, where="my.yaml")
