"""Which rows are in which batch: a function of (seed, epoch), so that a resumed or resized run sees the same batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_ray.data.hashing import permutation
from foundry_ray.errors import OutOfRange

if TYPE_CHECKING:
    import numpy as np


def epoch_batches(num_rows: int, *, batch_size: int, seed: int, epoch: int, rank: int, world_size: int) -> list[np.ndarray]:
    """This rank's share of each global batch of an epoch, as int64 row numbers.

    The global order depends on (seed, epoch) alone; the ranks' shares of a batch, in rank order, are that batch. The ragged tail
    is left out: each row has the same chance to be in it.

    Raises:
        OutOfRange: `batch_size` is larger than the split, or does not divide by `world_size`.
    """
    if batch_size > num_rows:
        message = f"batch_size is {batch_size}, but the training split has {num_rows} rows."
        raise OutOfRange(message, hint=f"set `teacher.train.batch_size` to {num_rows} or less.", key="batch_size", value=batch_size)
    if batch_size % world_size:
        message = f"batch_size is {batch_size}, wanted a multiple of the {world_size} workers."
        hint = f"set it to {batch_size - batch_size % world_size or world_size}, or change `teacher.workers`."
        raise OutOfRange(message, hint=hint, key="batch_size", value=batch_size)
    order_N = permutation(num_rows, seed, epoch)
    share = batch_size // world_size
    starts = range(rank * share, num_rows // batch_size * batch_size, batch_size)
    return [order_N[start : start + share] for start in starts]
