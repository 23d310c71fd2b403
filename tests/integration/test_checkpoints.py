"""Checkpoints through an S3 server: parts large enough to go up in several pieces, read in ranges by another number of ranks."""

from __future__ import annotations

from itertools import pairwise

import torch

from foundry_ray.clock import SystemClock
from foundry_ray.protocols import Fragment
from foundry_ray.testing.accounts import Account
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.checkpoint import CheckpointWriter, keep, latest, restore
from foundry_ray.training.state import LoopState

_NUMEL = 9_000_001  # 18 MB each for two ranks: two uploaded parts, two blocks


def _states(weights: torch.Tensor, num_ranks: int) -> list[LoopState]:
    borders = [_NUMEL * rank // num_ranks for rank in range(num_ranks + 1)]
    pieces = (Fragment(slot="weights", name="w", start=low, total=_NUMEL, tensor=weights[low:high]) for low, high in pairwise(borders))
    return [LoopState(document={}, fragments=(piece,)) for piece in pieces]


def test_two_ranks_save_and_three_restore(account: Account, reporter: RecordingReporter) -> None:
    store = account.open(account.config(f"http://127.0.0.1:{account.port}"))
    weights, key = torch.arange(float(_NUMEL)), "0" * 32
    for rank, state in enumerate(_states(weights, 2)[::-1]):
        writer = CheckpointWriter(store, key, attempt="a", rank=1 - rank, world_size=2, clock=SystemClock(), reporter=reporter, timeout_s=60.0)
        writer.save(10, 1, state, {})
        writer.close()
    checkpoint, live = latest(store, key), torch.zeros(_NUMEL)
    assert checkpoint is not None, reporter.warnings
    for rank, state in enumerate(_states(live, 3)):
        restore(store, checkpoint, state, rank=rank, world_size=3)
    assert torch.equal(live, weights)
    keep(store, key, ())
    assert not list(store.list("checkpoints/"))
