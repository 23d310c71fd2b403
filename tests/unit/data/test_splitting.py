"""Counts and stratified splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_ray.config import SplitConfig
from foundry_ray.data.splitting import split_counts, stratified
from foundry_ray.errors import OutOfRange

NONE_DROPPED = {"rest": 0, "test": 0}


def counts(train: float, val: float, test: float, *, num_rows: int, num_test_rows: int | None = None, rest: int = 0) -> dict[str, int]:
    config = SplitConfig(train=train, val=val, test=test)
    return split_counts(config, num_rows=num_rows, num_test_rows=num_test_rows, num_dropped={"rest": rest, "test": 0})[0]


def test_fractions_that_add_up_to_one_use_every_row() -> None:
    assert counts(0.7, 0.1, 0.2, num_rows=1797) == {"train": 1259, "val": 179, "test": 359}


def test_counts_stand_as_they_are() -> None:
    assert counts(3500, 500, 1000, num_rows=5000) == {"train": 3500, "val": 500, "test": 1000}
    assert counts(512, 128, 128, num_rows=5000) == {"train": 512, "val": 128, "test": 128}


def test_more_rows_than_there_are_is_refused() -> None:
    with pytest.raises(OutOfRange, match=r"asks for 5001 rows \(train \+ val \+ test\), but there are 5000.*Hint: lower `data\.split\.train` by 1"):
        counts(3501, 500, 1000, num_rows=5000)


def test_a_shortage_by_duplicates_shrinks_train_with_a_note() -> None:
    config = SplitConfig(train=3500, val=500, test=1000)
    found, notes = split_counts(config, num_rows=4990, num_test_rows=None, num_dropped={"rest": 10, "test": 0})
    assert found == {"train": 3490, "val": 500, "test": 1000}
    assert notes == ["the train split has 3490 rows, 10 fewer than asked for, because duplicates were dropped"]


def test_a_shortage_larger_than_the_duplicates_is_refused() -> None:
    with pytest.raises(OutOfRange, match="but there are 4989 after cleaning"):
        counts(3500, 500, 1000, num_rows=4989, rest=10)


def test_an_official_test_set_limits_test_alone() -> None:
    assert counts(5, 2, 3, num_rows=10, num_test_rows=3) == {"train": 5, "val": 2, "test": 3}
    with pytest.raises(OutOfRange, match=r"asks for 4 rows \(test\), but there are 3"):
        counts(5, 1, 4, num_rows=10, num_test_rows=3)
    with pytest.raises(OutOfRange, match=r"asks for 8 rows \(train \+ val\), but there are 7"):
        counts(6, 2, 1, num_rows=10, num_test_rows=3)


def test_half_a_row_is_refused() -> None:
    with pytest.raises(OutOfRange, match=r"data\.split\.val is 1\.5, but must be a whole number"):
        counts(5, 1.5, 2, num_rows=10)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    shares=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0, 1)),
    seed=st.integers(0, 2**31),
)
def test_splits_are_disjoint_exact_and_in_proportion(sizes: list[int], shares: tuple[float, ...], seed: int) -> None:
    labels_N = np.repeat(np.arange(len(sizes)), sizes)
    wanted = {name: int(share / sum(shares) * len(labels_N)) for name, share in zip(("train", "val", "test"), shares, strict=False)}
    splits = stratified(labels_N, np.arange(len(labels_N)), wanted, seed=seed)
    assert {name: len(rows) for name, rows in splits.items()} == wanted
    together = np.concatenate(list(splits.values()))
    assert len(set(together.tolist())) == len(together)
    for label, size in enumerate(sizes):
        share = wanted["test"] * size / len(labels_N)
        assert abs(int((labels_N[splits["test"]] == label).sum()) - share) < 1


def test_equal_seeds_give_equal_splits_and_others_differ() -> None:
    labels_N, rows_N = np.arange(60) % 3, np.arange(60)
    wanted = {"train": 30, "val": 12, "test": 12}
    first, again, other = (stratified(labels_N, rows_N, wanted, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in wanted)
    assert not np.array_equal(np.sort(first["test"]), np.sort(other["test"]))


def test_rows_come_in_mixed_order_so_that_the_first_ones_are_a_sample() -> None:
    labels_N = np.repeat(np.arange(4), 100)
    train = stratified(labels_N, np.arange(400), {"train": 200, "val": 100, "test": 100}, seed=0)["train"]
    assert set(labels_N[train[:30]].tolist()) == {0, 1, 2, 3}


def test_fractions_are_taken_of_max_rows_where_there_are_more() -> None:
    config = SplitConfig(train=0.7, val=0.1, test=0.2, max_rows=100)
    found, notes = split_counts(config, num_rows=5000, num_test_rows=None, num_dropped={"rest": 0, "test": 0})
    assert (found, notes) == ({"train": 70, "val": 10, "test": 20}, [])


def test_a_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(OutOfRange, match=r"data.split leaves 0 of 2 rows to train, wanted at least 1. Hint: give more rows"):
        counts(0.7, 0.1, 0.2, num_rows=2)
