"""How many units each coupling keeps: properties of the plan, over many random importances."""

from __future__ import annotations

import itertools

import pytest
import torch

from foundry_ray.compression.prune_plan import heads_left, slice_counts, weakest

SIZES = {"a": 64, "b": 24, "c": 8, "d": 40}
MULTIPLES = {"a": 8, "b": 8, "c": 8, "d": 4}


def drawn(seed: int, sizes: dict[str, int] = SIZES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(size, generator=generator) for name, size in sizes.items()}


@pytest.mark.parametrize("scope", ["global", "group"])
@pytest.mark.parametrize("seed", range(8))
def test_a_larger_share_never_keeps_more_and_all_counts_are_multiples(scope, seed):
    kept = [slice_counts(drawn(seed), SIZES, share, scope=scope, multiples=MULTIPLES) for share in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95)]
    assert kept[0] == SIZES
    for more, fewer in itertools.pairwise(kept):
        assert all(fewer[name] <= more[name] for name in SIZES)
    assert all(count % MULTIPLES[name] == 0 and count >= MULTIPLES[name] for counts in kept for name, count in counts.items())


def test_each_group_loses_the_same_share_where_the_scope_is_the_group():
    values = {"weak": torch.full((64,), 0.01), "strong": torch.full((64,), 9.0)}
    assert slice_counts(values, {"weak": 64, "strong": 64}, 0.5, scope="group", multiples={"weak": 8, "strong": 8}) == {"weak": 32, "strong": 32}
    assert slice_counts(values, {"weak": 64, "strong": 64}, 0.5, scope="global", multiples={"weak": 8, "strong": 8}) == {"weak": 8, "strong": 64}


@pytest.mark.parametrize("scope", ["global", "group"])
def test_of_equal_groups_each_loses_the_same_share(scope):
    """Scales of batch norms that were never trained are all 1: none lies below a threshold, and half of the channels were asked for."""
    values = {"one": torch.ones(32), "other": torch.ones(64)}
    assert slice_counts(values, {"one": 32, "other": 64}, 0.5, scope=scope, multiples={"one": 8, "other": 8}) == {"one": 16, "other": 32}


def test_slices_end_where_one_cut_does():
    values = drawn(0)
    left, origin = values, dict(SIZES)
    for share in (0.125, 0.25, 0.375, 0.5):
        counts = slice_counts(left, origin, share, scope="global", multiples=dict.fromkeys(SIZES, 1))
        left = {name: left[name][sorted(set(range(len(left[name]))) - set(weakest(left[name], counts[name])))] for name in left}
    once = slice_counts(values, origin, 0.5, scope="global", multiples=dict.fromkeys(SIZES, 1))
    assert {name: abs(len(left[name]) - once[name]) <= 2 for name in SIZES} == dict.fromkeys(SIZES, True)


@pytest.mark.parametrize("scope", ["global", "group"])
def test_heads_go_by_their_importance_and_one_stays_in_each_attention(scope):
    values = {"first": torch.tensor([0.1, 0.2, 0.3, 0.4]), "second": torch.tensor([5.0, 6.0, 7.0, 8.0])}
    origin = {"first": 4, "second": 4}
    half = heads_left(values, origin, 0.5, scope=scope)
    assert half == ({"first": 1, "second": 3} if scope == "global" else {"first": 2, "second": 2})
    assert heads_left(values, origin, 0.95, scope=scope) == {"first": 1, "second": 1}


def test_of_equal_units_the_first_goes():
    assert weakest(torch.tensor([0.5, 0.1, 0.1, 0.9]), 3) == [1]
