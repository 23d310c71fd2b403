"""Stretches of a checkpoint's objects, read several at once, few and long, and each verified before anybody sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from foundry_ray.artifacts.threads import in_threads
from foundry_ray.errors import ArtifactCorrupt
from foundry_ray.protocols import ArtifactStore
from foundry_ray.training.checkpoint.layout import Checkpoint, Index, data_name, index_name, parse_index
from foundry_ray.types import parse_json

MAX_READ_BYTES = 64 << 20
_MAX_GAP_BYTES = 256 << 10  # read along and dropped: cheaper than a request of its own
_NUM_THREADS = 4  # each holds a stretch in memory
_HINT = "an older checkpoint is used where there is one; else train anew: `--fresh STAGE`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Bytes of one rank's object, and who takes them once they are verified. `what` names them in errors."""

    rank: int
    offset: int
    size_bytes: int
    sha256: str
    what: str
    take: Callable[[memoryview], None]


def read_indices(store: ArtifactStore, checkpoint: Checkpoint) -> list[Index]:
    """The index of each rank. Raises ArtifactNotFound or ArtifactCorrupt."""
    return in_threads(partial(_read_index, store, checkpoint), range(checkpoint.world_size))


def read(store: ArtifactStore, checkpoint: Checkpoint, stretches: Iterable[Stretch]) -> None:
    """Hand each stretch to its taker, on several threads at once.

    Raises:
        ArtifactNotFound: An object is not there.
        ArtifactCorrupt: A stretch is not what its hash says. Others may have been taken.
    """
    in_threads(partial(_read_run, store, checkpoint), _runs(stretches), num_threads=_NUM_THREADS)


def _runs(stretches: Iterable[Stretch]) -> Iterator[list[Stretch]]:
    """Neighbours together, as long as one read of them stays within its bound."""
    run: list[Stretch] = []
    for stretch in sorted(stretches, key=lambda stretch: (stretch.rank, stretch.offset)):
        if run and not _fits(run, stretch):
            yield run
            run = []
        run.append(stretch)
    if run:
        yield run


def _fits(run: list[Stretch], stretch: Stretch) -> bool:
    end = stretch.offset + stretch.size_bytes
    gap = stretch.offset - (run[-1].offset + run[-1].size_bytes)
    return stretch.rank == run[0].rank and gap <= _MAX_GAP_BYTES and end - run[0].offset <= MAX_READ_BYTES


def _read_run(store: ArtifactStore, checkpoint: Checkpoint, run: list[Stretch]) -> None:
    key, start = checkpoint.folder + data_name(run[0].rank), run[0].offset
    data = memoryview(store.get(key, start=start, size=run[-1].offset + run[-1].size_bytes - start))
    for stretch in run:
        view = data[stretch.offset - start : stretch.offset - start + stretch.size_bytes]
        _verify(f"{stretch.what} at byte {stretch.offset} of {key}", key, stretch.sha256, view)
        stretch.take(view)


def _read_index(store: ArtifactStore, checkpoint: Checkpoint, rank: int) -> Index:
    key = checkpoint.folder + index_name(rank)
    data = store.get(key)
    _verify(key, key, checkpoint.parts[rank].index.sha256, data)
    return parse_index(key, parse_json(data, what=key))


def _verify(what: str, key: str, expected: str, data: bytes | memoryview) -> None:
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected:
        message = f"{what} has sha256 {actual[:12]}, wanted {expected[:12]}."
        raise ArtifactCorrupt(message, hint=_HINT, key=key, expected=expected, actual=actual)
