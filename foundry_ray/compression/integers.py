"""Weights as integers: the definitions that the served files and their imitations share. Pure numpy.

Suffixes: N output channels, K inputs of one, B groups of one, G weights of a group. Every grid here is symmetric: a weight is integer * scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MAX_INT8 = 127
MAX_INT4 = 7
ZERO_INT4 = 8
"""What is added to a 4-bit integer, so that it is stored as 1..15."""


def per_channel(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers in [-127, 127] and the scale of each channel along `axis`: max|w| / 127 (arXiv 1712.05877, 2004.09602). A channel of zeros has 1."""
    import numpy as np

    others = tuple(other for other in range(weight.ndim) if other != axis % weight.ndim)
    scale = _scale(np.abs(weight).max(axis=others, keepdims=True), MAX_INT8)
    return np.rint(weight / scale).astype(np.int8), scale


def per_row(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `per_channel`, with a scale for each row of the last axis: embeddings, and the matrices of each direction of a recurrent layer."""
    import numpy as np

    scale = _scale(np.abs(weight).max(axis=-1, keepdims=True), MAX_INT8)
    return np.rint(weight / scale).astype(np.int8), scale


def in_groups(weight_NK: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """4-bit integers in [-7, 7] of shape (N, B, G) and scales (N, B, 1): max|w| / 7 of each `group` neighbours; the last is filled up with zeros."""
    import numpy as np

    padded = np.pad(weight_NK, ((0, 0), (0, -weight_NK.shape[1] % group)))
    weight_NBG = padded.reshape(len(weight_NK), -1, group)
    scale_NB1 = _scale(np.abs(weight_NBG).max(axis=-1, keepdims=True), MAX_INT4)
    return np.rint(weight_NBG / scale_NB1).astype(np.int8), scale_NB1


def packed(integers: np.ndarray, *, neighbours: bool) -> np.ndarray:
    """Two 4-bit integers in a byte, along the last axis: neighbours (the first one low), or i and i + half of the axis."""
    import numpy as np

    codes = (integers + ZERO_INT4).astype(np.uint8)
    half = codes.shape[-1] // 2
    low, high = (codes[..., 0::2], codes[..., 1::2]) if neighbours else (codes[..., :half], codes[..., half:])
    return low | (high << 4)


def _scale(largest: np.ndarray, top: int) -> np.ndarray:
    import numpy as np

    scale: np.ndarray = np.where(largest > 0, largest / top, 1.0).astype(np.float32)
    # The smallest floats divide to zero.
    return np.where(scale > 0, scale, 1.0).astype(np.float32)
