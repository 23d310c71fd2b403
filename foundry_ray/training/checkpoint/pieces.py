"""Which saved blocks hold the elements that a fragment wants, however many ranks saved them and however they had cut them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from foundry_ray.errors import ArtifactCorrupt, ConfigError
from foundry_ray.protocols import Fragment
from foundry_ray.training.checkpoint.layout import Block, Checkpoint, Index
from foundry_ray.training.checkpoint.ranges import Stretch

if TYPE_CHECKING:
    from torch import Tensor

_HINT = "restore with the model and optimizer that saved it, or train anew: `--fresh STAGE`."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    rank: int
    block: Block

    @property
    def stop(self) -> int:
        return self.block.start + self.block.numel


class Catalog:
    """All blocks of a checkpoint, by slot and parameter."""

    def __init__(self, checkpoint: Checkpoint, indices: Sequence[Index]) -> None:
        self._where = checkpoint.folder
        self._saved: dict[tuple[str, str], list[_Saved]] = defaultdict(list)
        for rank, index in enumerate(indices):
            for block in index.blocks:
                self._saved[block.slot, block.name].append(_Saved(rank=rank, block=block))
        for found in self._saved.values():
            found.sort(key=lambda saved: saved.block.start)

    def totals(self, slot: str) -> dict[str, int]:
        """The elements of each parameter that has the slot."""
        return {name: found[0].block.total for (one, name), found in self._saved.items() if one == slot}

    def stretches(self, fragments: Iterable[Fragment]) -> list[Stretch]:
        """What must be read so that each fragment is whole; taking a stretch writes into all fragments that want some of it.

        Raises:
            ConfigError: The checkpoint has no such slot or parameter, or one of another size: another model or optimizer saved it.
            ArtifactCorrupt: It has the parameter, and not all of its elements.
        """
        takers: dict[tuple[int, int], tuple[_Saved, list[Fragment]]] = {}
        for fragment in fragments:
            for saved in self._covering(fragment):
                takers.setdefault((saved.rank, saved.block.offset), (saved, []))[1].append(fragment)
        return [_stretch(saved, wanting) for saved, wanting in takers.values()]

    def _covering(self, fragment: Fragment) -> Iterator[_Saved]:
        start, stop = fragment.start, fragment.start + fragment.tensor.numel()
        for saved in self._of(fragment) if stop > start else ():
            if saved.stop <= start or saved.block.start >= stop:
                continue
            if saved.block.start > start:
                break
            yield saved
            start = saved.stop
        if start < stop:
            message = f"{self._where} lacks the elements from {start} on of {fragment.slot} of {fragment.name}, wanted up to {stop}."
            raise ArtifactCorrupt(message, hint="an older checkpoint is used where there is one.", key=self._where)

    def _of(self, fragment: Fragment) -> list[_Saved]:
        found = self._saved.get((fragment.slot, fragment.name))
        if found is None:
            slots = sorted({slot for slot, name in self._saved if name == fragment.name})
            got = f"has {', '.join(slots)} of it" if slots else "does not know that parameter"
            raise ConfigError(f"{self._where} holds no {fragment.slot} of {fragment.name}: it {got}.", hint=_HINT)
        total = found[0].block.total
        if total != fragment.total:
            message = f"{self._where} holds {fragment.slot} of {fragment.name} with {total} elements, wanted {fragment.total}."
            raise ConfigError(message, hint=_HINT)
        return found


def as_tensor(data: memoryview, dtype: str) -> Tensor:
    """The elements of raw bytes, in one dimension, in memory of their own."""
    import torch

    return torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype)) if data.nbytes else torch.empty(0, dtype=getattr(torch, dtype))


def _stretch(saved: _Saved, fragments: list[Fragment]) -> Stretch:
    block = saved.block
    what = f"{block.slot} of {block.name}"
    take = partial(_take, block, fragments)
    return Stretch(rank=saved.rank, offset=block.offset, size_bytes=block.size_bytes, sha256=block.sha256, what=what, take=take)


def _take(block: Block, fragments: list[Fragment], data: memoryview) -> None:
    import torch

    item = len(data) // block.numel
    with torch.no_grad():
        for fragment in fragments:
            low = max(block.start, fragment.start)
            high = min(block.start + block.numel, fragment.start + fragment.tensor.numel())
            values = as_tensor(data[(low - block.start) * item : (high - block.start) * item], block.dtype)
            fragment.tensor[low - fragment.start : high - fragment.start].copy_(values)
