"""States of a few hundred numbers, held by any number of ranks, whole or cut where it is least convenient; and stores that wait or count."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from foundry_ray.clock import SystemClock
from foundry_ray.protocols import ArtifactStore, Fragment
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.training.checkpoint import Checkpoint, CheckpointWriter, latest
from foundry_ray.training.state import LoopState

KEY = "0" * 32
SIZES = {"stem.weight": 101, "head.bias": 7, "head.weight": 60}
SLOTS = ("weights", "mean")
Truth = Mapping[str, Mapping[str, Tensor]]


def make_truth(*, seed: int = 0, slots: Sequence[str] = SLOTS) -> Truth:
    """Numbers for each slot of each parameter."""
    generator = torch.Generator().manual_seed(seed)
    return {slot: {name: torch.randn(size, generator=generator) for name, size in SIZES.items()} for slot in slots}


def make_states(truth: Truth, world_size: int, *, replicated: Sequence[str] = ()) -> list[LoopState]:
    """What each rank holds: of replicated slots everything, of the others a stretch that ends anywhere."""
    return [
        LoopState(document={"epoch": 1}, fragments=tuple(_fragments(truth, rank, world_size, replicated)), own=own_of(rank))
        for rank in range(world_size)
    ]


def blank(states: Sequence[LoopState]) -> list[LoopState]:
    """The same places, with zeros in them."""
    return [
        LoopState(
            document={},
            fragments=tuple(
                Fragment(
                    slot=one.slot,
                    name=one.name,
                    start=one.start,
                    total=one.total,
                    tensor=torch.zeros_like(one.tensor),
                    is_replicated=one.is_replicated,
                )
                for one in state.fragments
            ),
            own={name: torch.zeros_like(tensor) for name, tensor in state.own.items()},
        )
        for state in states
    ]


def own_of(rank: int) -> dict[str, Tensor]:
    """A batch-norm statistic, a count, and sums of losses, other ones on each rank."""
    return {"buffers/mean": torch.tensor([rank + 0.5, 2.0]), "buffers/count": torch.tensor(10 + rank), "sums": torch.full((2,), float(rank + 1))}


def are_equal(one: Sequence[LoopState], other: Sequence[LoopState]) -> bool:
    """Whether all fragments hold the same bits."""
    pairs = ((a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x.fragments, y.fragments, strict=True))
    return all(torch.equal(a.tensor.view(torch.int32), b.tensor.view(torch.int32)) for a, b in pairs)


def make_writers(store: ArtifactStore, world_size: int, reporter: RecordingReporter, **options: object) -> list[CheckpointWriter]:
    """A writer for each rank of an attempt."""
    given = {"attempt": "a", "timeout_s": 20.0, "clock": SystemClock(), **options}
    return [
        CheckpointWriter(store, KEY, rank=rank, world_size=world_size, reporter=reporter, **given)  # type: ignore[arg-type]
        for rank in range(world_size)
    ]


def save(store: ArtifactStore, states: Sequence[LoopState], *, step: int = 10, attempt: str = "a") -> Checkpoint:
    """Save and commit what the ranks hold."""
    reporter = RecordingReporter()
    writers = make_writers(store, len(states), reporter, attempt=attempt)
    for writer, state in zip(writers, states, strict=True):
        writer.save(step, step // 10, state, {})
    for writer in writers:
        writer.wait()
    assert not reporter.warnings
    found = latest(store, KEY)
    assert found is not None
    return found


class GatedStore(MemoryStore):
    """Takes objects whose key ends so only when the gate is open."""

    def __init__(self, suffix: str) -> None:
        super().__init__()
        self.gate = threading.Event()
        self._suffix = suffix

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        if key.endswith(self._suffix):
            assert self.gate.wait(20.0)
        super().put(key, source, if_absent=if_absent)


class CountingStore(MemoryStore):
    """Counts what is read of objects with raw bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0
        self.num_reads = 0

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        data = super().get(key, start=start, size=size)
        if key.endswith(".bin"):
            self.num_bytes += len(data)
            self.num_reads += 1
        return data


def _fragments(truth: Truth, rank: int, world_size: int, replicated: Sequence[str]) -> list[Fragment]:
    total = sum(SIZES.values())
    borders = [0, *(total * index // world_size + 3 * (index % 2) for index in range(1, world_size)), total]
    found = []
    for slot, tensors in truth.items():
        position = 0
        for name, tensor in tensors.items():
            low, high = max(borders[rank] - position, 0), min(borders[rank + 1] - position, tensor.numel())
            position += tensor.numel()
            if slot in replicated:
                found.append(Fragment(slot=slot, name=name, start=0, total=tensor.numel(), tensor=tensor.clone(), is_replicated=True))
            elif low < high:
                found.append(Fragment(slot=slot, name=name, start=low, total=tensor.numel(), tensor=tensor[low:high].clone()))
    return found
