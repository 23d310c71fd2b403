"""Memory that DeepSpeed holds and does not need, given back without a change in what is computed: fp32 weights and their fp32 partition are one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch.distributed
from torch import Tensor


def share_partitions(zero: Any, flats: Sequence[Tensor], *, stage: int) -> None:
    """Let each fp32 partition lie in the weights that are computed with, where these are fp32 on the same device.

    DeepSpeed keeps both, and a step only copies the one to the other. ZeRO 3 means to keep one, but asks whether a torch.device equals a string,
    which it never does. What is offloaded or cast stays as it is.

    Args:
        zero: DeepSpeed's ZeRO optimizer.
        flats: Its fp32 partitions, which keep their identity.
        stage: 1 to 3.
    """
    for flat, live in zip(flats, _computed_with(zero, stage), strict=False):
        if live is not None and (live.dtype, live.device, live.shape) == (flat.dtype, flat.device, flat.shape):
            flat.data = live.data
    if stage < 3 and not getattr(zero, "cpu_offload", True):
        zero._link_all_hp_params()  # its views of the partitions, which would keep the other memory


def _computed_with(zero: Any, stage: int) -> Iterator[Tensor | None]:
    """What each partition is copied to after a step; None where that is on a disk, nothing where the optimizer's state is offloaded."""
    if stage == 3:
        yield from () if zero.offload_optimizer else zero.fp16_partitioned_groups_flat
    elif not getattr(zero, "cpu_offload", True):  # the class of bf16 weights with fp32 gradients has no such attribute
        for parts, group in zip(zero.parallel_partitioned_bit16_groups, zero.real_dp_process_group, strict=True):
            yield parts[torch.distributed.get_rank(group)]
