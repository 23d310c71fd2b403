"""Whether a study computes its teacher's logits beforehand."""

from __future__ import annotations

import pytest

from foundry_ray.search.targets import wants_logits
from foundry_ray.types import Param, Scalar, SearchSpace

ALPHA = Param(name="distil_alpha", kind="float", low=0.1, high=0.9)


def choice(name: str, *choices: Scalar) -> Param:
    return Param(name=name, kind="categorical", choices=choices)


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ((), False),
        ((ALPHA,), True),
        ((ALPHA, choice("distil.kind", "logits", "features")), True),
        ((ALPHA, choice("distil.kind", "attention", "features")), False),
        ((ALPHA, choice("distil.kind", "self")), False),
        ((ALPHA, choice("distil.source", "online")), False),
        ((ALPHA, choice("distil.kind", "logits", "none-of-labels"), choice("distil.source", "cached", "online")), True),
    ],
)
def test_logits_are_wanted_where_some_recipe_learns_from_cached_answers(params: tuple[Param, ...], wanted: bool) -> None:
    assert wants_logits(SearchSpace(params=params)) is wanted
