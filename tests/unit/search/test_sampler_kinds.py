from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import get_args

import pytest

from foundry_ray.config import SearchConfig
from foundry_ray.errors import ConfigError, SearchSpaceError
from foundry_ray.search.samplers import Kind, check_sampler
from foundry_ray.types import SearchSpace
from tests.unit.search import _sampling as small

STEPS = SearchSpace(params=(small.BITS, small.WIDTH), objectives=small.OBJECTIVES)


def test_the_kinds_are_those_of_the_configuration() -> None:
    assert set(get_args(Kind)) == set(get_args(SearchConfig.model_fields["sampler"].annotation))


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("scheduler", ["asha", "median", "none"])
def test_a_kind_that_fits_the_space_is_let_pass(kind: Kind, scheduler: str) -> None:
    check_sampler(kind, small.NUMBERS if kind == "cmaes" else STEPS, scheduler)


@pytest.mark.parametrize(
    ("kind", "space", "scheduler", "error", "message"),
    [
        ("grid", small.PLAIN, "none", SearchSpaceError, "lr is continuous"),
        ("grid", STEPS, "pbt", ConfigError, "pbt changes parameters on the way"),
        ("cmaes", small.PLAIN, "none", ConfigError, "one objective, but search.objectives are accuracy, size_bytes, num_macs"),
        ("cmaes", replace(small.PLAIN, objectives=(small.ACCURACY,)), "none", SearchSpaceError, "bits is a choice"),
        ("cmaes", SearchSpace(params=(replace(small.LR, when={"width": (8,)}), small.WIDTH)), "none", SearchSpaceError, "lr is only there under"),
        ("cmaes", small.NUMBERS, "hyperband", ConfigError, "hyperband starts trials at different rungs"),
        ("nsga2", STEPS, "hyperband", ConfigError, "hyperband starts trials at different rungs"),
    ],
)
def test_a_kind_that_cannot_be_used_is_refused(kind: Kind, space: SearchSpace, scheduler: str, error: type[ConfigError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        check_sampler(kind, space, scheduler)
    assert "search.sampler: " in caught.value.hint


@pytest.mark.parametrize(("kind", "package"), [("gp", "scipy"), ("gp", "torch"), ("qmc", "scipy"), ("cmaes", "cmaes")])
def test_a_missing_package_is_named(kind: Kind, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else genuine(name, *rest))
    with pytest.raises(ConfigError, match=f"needs the package {package}, and it is not installed") as caught:
        check_sampler(kind, small.NUMBERS, "none")
    assert "pip install 'foundry-ray[samplers]'" in caught.value.hint
