"""What of the state a rank saves, and where in its object it goes. Pure: each rank decides for itself, and all agree.

What only this rank holds it saves whole. What all ranks hold alike is laid end to end and cut into equal stretches, one a rank, so that every
element is saved once and all ranks save as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_ray.protocols import Fragment
from foundry_ray.training.checkpoint.layout import BLOCK_BYTES, Block, OwnTensor

if TYPE_CHECKING:
    from torch import Tensor

    from foundry_ray.training.state import LoopState

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A live tensor and the byte of the object at which its copy begins."""

    tensor: Tensor
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to copy where. `blocks` and `own` have no hashes yet; `size_bytes` is that of the object."""

    copies: tuple[Placed, ...]
    blocks: tuple[Block, ...]
    own: tuple[OwnTensor, ...]
    size_bytes: int


def plan(state: LoopState, *, rank: int, world_size: int) -> Plan:
    """Lay out what this rank saves."""
    copies: list[Placed] = []
    blocks: list[Block] = []
    own: list[OwnTensor] = []
    end = 0
    for fragment in shared_out(state.fragments, rank=rank, world_size=world_size):
        copies.append(Placed(tensor=fragment.tensor, offset=end))
        blocks.extend(_blocks(fragment, end))
        end = _aligned(end + fragment.tensor.nbytes)
    for name, tensor in state.own.items():
        copies.append(Placed(tensor=tensor, offset=end))
        own.append(OwnTensor(name=name, dtype=dtype_name(tensor), shape=tuple(tensor.shape), offset=end, sha256=""))
        end = _aligned(end + tensor.nbytes)
    return Plan(copies=tuple(copies), blocks=tuple(blocks), own=tuple(own), size_bytes=max(end, 1))  # no memory is mapped without a byte


def shared_out(fragments: Sequence[Fragment], *, rank: int, world_size: int) -> Iterator[Fragment]:
    """What this rank saves of the fragments: its own whole, and of the replicated ones its share."""
    total = sum(fragment.tensor.numel() for fragment in fragments if fragment.is_replicated)
    first, stop = total * rank // world_size, total * (rank + 1) // world_size
    position = 0
    for fragment in fragments:
        numel = fragment.tensor.numel()
        if not fragment.is_replicated:
            if numel:
                yield fragment
            continue
        low, high = max(first - position, 0), min(stop - position, numel)
        position += numel
        if low < high:
            yield Fragment(slot=fragment.slot, name=fragment.name, start=fragment.start + low, total=fragment.total, tensor=fragment.tensor[low:high])


def dtype_name(tensor: Tensor) -> str:
    """What torch calls the type of its elements, without the module."""
    return str(tensor.dtype).removeprefix("torch.")


def _blocks(fragment: Fragment, offset: int) -> Iterator[Block]:
    item = fragment.tensor.element_size()
    most, numel, dtype = BLOCK_BYTES // item, fragment.tensor.numel(), dtype_name(fragment.tensor)
    for low in range(0, numel, most):
        yield Block(
            slot=fragment.slot,
            name=fragment.name,
            start=fragment.start + low,
            numel=min(most, numel - low),
            total=fragment.total,
            dtype=dtype,
            offset=offset + low * item,
            sha256="",
        )


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT
