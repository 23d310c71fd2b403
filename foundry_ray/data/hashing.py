"""Counter-based randomness: a number is a function of what it is for, and of nothing that was drawn before.

splitmix64 (Steele, Lea, Flood 2014), in numpy and in torch with equal results, so that orders, splits and augmentations never
change with a library's generator, the batch or the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def mix(*words: int) -> int:
    """One 64-bit hash of some integers, in their order."""
    state = 0
    for word in words:
        state = _finish((state ^ (word & _WORD)) + _GOLDEN & _WORD)
    return state


def permutation(num_rows: int, *words: int) -> np.ndarray:
    """The numbers 0..num_rows-1 in an order that depends on `words` alone; int64 of shape (num_rows,)."""
    import numpy as np

    return np.argsort(_mix_rows(mix(*words), np.arange(num_rows, dtype=np.uint64)), kind="stable").astype(np.int64)


def uniform(key: int, rows_B: Tensor, stream: int) -> Tensor:
    """One number in [0, 1) per row as float64, a function of (key, row, stream)."""
    state_B = _mix_tensor(rows_B, mix(key, stream))
    return ((state_B >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def _finish(state: int) -> int:
    state = (state ^ (state >> 30)) * _FIRST & _WORD
    state = (state ^ (state >> 27)) * _SECOND & _WORD
    return state ^ (state >> 31)


def _mix_rows(key: int, rows_N: np.ndarray) -> np.ndarray:
    import numpy as np

    state_N = (rows_N ^ np.uint64(key)) + np.uint64(_GOLDEN)
    state_N = (state_N ^ (state_N >> np.uint64(30))) * np.uint64(_FIRST)
    state_N = (state_N ^ (state_N >> np.uint64(27))) * np.uint64(_SECOND)
    mixed: np.ndarray = state_N ^ (state_N >> np.uint64(31))
    return mixed


def _mix_tensor(rows_B: Tensor, key: int) -> Tensor:
    """torch has no unsigned 64-bit arithmetic everywhere: int64 wraps the same way, and shifts are masked to be logical."""
    state_B = (rows_B.long() ^ _signed(key)) + _signed(_GOLDEN)
    state_B = (state_B ^ _shifted(state_B, 30)) * _signed(_FIRST)
    state_B = (state_B ^ _shifted(state_B, 27)) * _signed(_SECOND)
    return state_B ^ _shifted(state_B, 31)


def _shifted(state_B: Tensor, bits: int) -> Tensor:
    return (state_B >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
