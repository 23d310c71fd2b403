"""Common corruptions (arXiv 1903.12261) of raw pixels, at severities 1 to 5, for images of any size and number of channels.

Written here because the libraries for them take colour photographs. Strengths are the paper's for small images (its CIFAR-10-C), where it has them.
Deterministic: noise is a function of kind, severity and shape. Legend: N samples, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from foundry_ray.config import CorruptionKind

if TYPE_CHECKING:
    import numpy as np

_WHITE = 255.0
_STRENGTHS: dict[CorruptionKind, tuple[float, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation, of white
    "shot_noise": (500, 250, 100, 75, 50),  # photons of a white pixel
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),  # share of pixels that turn black or white
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # standard deviation, in pixels
    "motion_blur": (3, 5, 7, 9, 11),  # length of a level way, in pixels; the numbers are ours: the paper draws slanted ones
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),  # added, of white
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # share that remains
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),  # sides of the small image, of the whole one's
}


def corrupt(images_NCHW: np.ndarray, kind: CorruptionKind, severity: int) -> np.ndarray:
    """uint8 images, damaged; the input is left unchanged.

    Args:
        images_NCHW: Raw pixels, uint8.
        kind: What is done to them.
        severity: How strongly, 1 to 5.
    """
    import numpy as np

    kinds = list(_STRENGTHS)
    generator = np.random.default_rng((kinds.index(kind), severity))
    damaged = _DAMAGES[kind](images_NCHW.astype(np.float64), _STRENGTHS[kind][severity - 1], generator)
    result_NCHW: np.ndarray = np.clip(np.rint(damaged), 0, _WHITE).astype(np.uint8)
    return result_NCHW


def _gaussian_noise(images_NCHW: np.ndarray, deviation: float, generator: np.random.Generator) -> np.ndarray:
    return images_NCHW + generator.normal(0, deviation * _WHITE, images_NCHW.shape)


def _shot_noise(images_NCHW: np.ndarray, photons: float, generator: np.random.Generator) -> np.ndarray:
    return generator.poisson(images_NCHW / _WHITE * photons) / photons * _WHITE


def _impulse_noise(images_NCHW: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    import numpy as np

    is_hit, is_white = (generator.random(images_NCHW.shape) < limit for limit in (share, 0.5))
    return np.where(is_hit, np.where(is_white, _WHITE, 0.0), images_NCHW)


def _gaussian_blur(images_NCHW: np.ndarray, deviation: float, generator: np.random.Generator) -> np.ndarray:
    import numpy as np

    reach = max(1, round(4 * deviation))
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    return _smeared(_smeared(images_NCHW, weights, axis=2), weights, axis=3)


def _motion_blur(images_NCHW: np.ndarray, length: float, generator: np.random.Generator) -> np.ndarray:
    import numpy as np

    return _smeared(images_NCHW, np.ones(int(length)), axis=3)


def _brightness(images_NCHW: np.ndarray, added: float, generator: np.random.Generator) -> np.ndarray:
    return images_NCHW + added * _WHITE


def _contrast(images_NCHW: np.ndarray, remaining: float, generator: np.random.Generator) -> np.ndarray:
    mean = images_NCHW.mean(axis=(2, 3), keepdims=True)
    changed_NCHW: np.ndarray = (images_NCHW - mean) * remaining + mean
    return changed_NCHW


def _pixelate(images_NCHW: np.ndarray, side: float, generator: np.random.Generator) -> np.ndarray:
    """Shrunk by means over areas, and blown up to squares again."""
    for axis in (2, 3):
        images_NCHW = _coarsened(images_NCHW, side, axis)
    return images_NCHW


def _coarsened(images_NCHW: np.ndarray, side: float, axis: int) -> np.ndarray:
    import numpy as np

    size = images_NCHW.shape[axis]
    small = max(1, int(size * side))
    edges = np.linspace(0, size, small + 1)
    starts, pixels = edges[:-1, None], np.arange(size)[None]
    overlap = np.clip(np.minimum(edges[1:, None], pixels + 1) - np.maximum(starts, pixels), 0, None)
    shrunk = np.moveaxis(images_NCHW, axis, -1) @ (overlap / overlap.sum(axis=1, keepdims=True)).T
    nearest = ((np.arange(size) + 0.5) * small / size).astype(int)
    return np.moveaxis(shrunk[..., nearest], -1, axis)


def _smeared(images_NCHW: np.ndarray, weights: np.ndarray, *, axis: int) -> np.ndarray:
    """A weighted mean over neighbours along one axis; beyond the border lies the pixel of the border."""
    import numpy as np

    before = (len(weights) - 1) // 2
    padding = [(before, len(weights) - 1 - before) if axis == one else (0, 0) for one in range(4)]
    padded = np.pad(images_NCHW, padding, mode="edge")
    size = images_NCHW.shape[axis]
    total = np.zeros_like(images_NCHW)
    for start, weight in enumerate(weights / weights.sum()):  # one by one: all at once are many times the images
        total += weight * np.take(padded, range(start, start + size), axis=axis)
    return total


_DAMAGES: dict[CorruptionKind, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "gaussian_blur": _gaussian_blur,
    "motion_blur": _motion_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "pixelate": _pixelate,
}
