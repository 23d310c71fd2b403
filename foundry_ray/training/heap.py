"""What glibc does with memory that training frees on a CPU: keep it for the next step, or give it back to the system at once.

Decides neither for which engine (the engines do) nor what is freed. Elsewhere than on Linux with glibc nothing is done. Both hold for the
whole process from then on; the one that was asked for last counts.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGE_BYTES = 1 << 20
_NEVER_BYTES = (1 << 31) - 1


def keep_freed_blocks() -> None:
    """Let the next step have what this one freed: activations, gradients and what lies between them.

    By default glibc returns the top of its heap whenever a pass has freed it, and the next one takes each page as a fault: 6,000 faults and a tenth
    of the time of a step of a 0.7 M ResNet. The process then stays as large as its largest step, which the next step needs anyway.
    """
    _set(_M_TRIM_THRESHOLD, _NEVER_BYTES)
    _set(_M_MMAP_THRESHOLD, _NEVER_BYTES)


def return_large_blocks() -> None:
    """Give each block of a MiB or more back when it is freed.

    The bound would rise to 32 MiB as such blocks come and go, and weights that are gathered and freed would leave a heap of holes.
    """
    _set(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def _set(option: int, value: int) -> None:
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(option, value)
