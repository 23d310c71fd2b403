"""The order of rows, and the numbers behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundry_ray.data import hashing
from foundry_ray.data.order import epoch_batches
from foundry_ray.errors import OutOfRange


def batches(*, epoch: int = 0, seed: int = 0, rank: int = 0, world_size: int = 1, num_rows: int = 50) -> list[list[int]]:
    return [rows.tolist() for rows in epoch_batches(num_rows, batch_size=12, seed=seed, epoch=epoch, rank=rank, world_size=world_size)]


def test_an_epoch_has_each_row_at_most_once_and_no_ragged_batch() -> None:
    found = batches()
    assert [len(batch) for batch in found] == [12] * 4
    assert len({row for batch in found for row in batch}) == 48


def test_the_order_depends_on_seed_and_epoch() -> None:
    assert batches() == batches()
    assert batches() != batches(epoch=1)
    assert batches() != batches(seed=1)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_ranks_together_are_the_batch_of_one_worker(world_size: int) -> None:
    shares = [batches(rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [[row for share in parts for row in share] for parts in zip(*shares, strict=True)]
    assert together == batches()


def test_workers_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(OutOfRange, match="batch_size is 12, wanted a multiple of the 5 workers"):
        batches(world_size=5)


def test_a_batch_larger_than_the_split_is_refused() -> None:
    with pytest.raises(OutOfRange, match="batch_size is 12, but the training split has 11 rows"):
        batches(num_rows=11)


def test_torch_and_numpy_agree_on_every_number() -> None:
    rows = np.arange(1000)
    for seed in (0, 1, 2**63 - 1):
        key = hashing.mix(seed, 3)
        mixed = hashing._mix_rows(hashing.mix(key, 2), rows.astype(np.uint64))
        expected = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
        assert hashing.uniform(key, torch.from_numpy(rows), 2).tolist() == expected.tolist()


def test_splitmix64_is_the_published_one() -> None:
    """First outputs of the reference implementation for the seed 1234567: each state is the one before plus the golden ratio."""
    states = [(1234567 + number * hashing._GOLDEN) % 2**64 for number in range(3)]
    assert [hashing.mix(state) for state in states] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_uniform_numbers_are_uniform_and_streams_independent() -> None:
    first, second = (hashing.uniform(1, torch.arange(20_000), stream) for stream in (0, 1))
    assert abs(first.mean().item() - 0.5) < 0.01
    assert abs(first.var().item() - 1 / 12) < 0.002
    assert abs(torch.corrcoef(torch.stack((first, second)))[0, 1].item()) < 0.03
