"""Deterministic mode: only kernels that give the same bits each time. On CPUs nothing changes; on GPUs it costs speed.

An operation that has no such kernel raises torch's own error, which names it. cuBLAS needs CUBLAS_WORKSPACE_CONFIG in the environment
before its first product, so a process trains deterministically from its start or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from foundry_ray.runtime.env import apply_for_cublas


@contextmanager
def deterministic(is_on: bool) -> Iterator[None]:
    """While this lasts, the process computes deterministically; afterwards as before. Nothing happens where `is_on` is false."""
    if not is_on:
        yield
        return
    apply_for_cublas()
    was_on, was_warning = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    was_searching = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = was_searching
        torch.use_deterministic_algorithms(was_on, warn_only=was_warning)
