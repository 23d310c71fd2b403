"""What training must remember to go on exactly: pieces that many ranks share out, what is each rank's own, and plain numbers.

The order of rows, augmentation, mixing and dropout are functions of (seed, step), so no generator's state is among it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foundry_ray.protocols import Fragment
from foundry_ray.types import Json

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """The state of one rank's loop. Tensors are live: copy them before the next step, write into them to restore.

    Attributes:
        document: Equal on all ranks: epoch, step in the epoch, the curve so far, the engine's scalars.
        fragments: Of weights, optimizer state and averaged weights: what this rank holds.
        own: This rank's own tensors by name: buffers (`buffers/...`), averaged buffers (`average_buffers/...`), loss sums (`sums`).
    """

    document: Mapping[str, Json]
    fragments: tuple[Fragment, ...]
    own: Mapping[str, Tensor] = field(default_factory=dict)
