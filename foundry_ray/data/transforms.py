"""Random changes of training images that are a function of (seed, row, view): the same whoever asks, in any batch.

That is what lets a teacher's answers be cached per view, and a resumed run see the images that the unbroken one would have seen.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from foundry_ray.data.hashing import mix, uniform
from foundry_ray.errors import OutOfRange

if TYPE_CHECKING:
    from torch import Tensor

OPS = ("shift", "rotate", "flip")
_MAX_SHIFT_RATIO = 2 / 28
_MAX_ANGLE = math.radians(12.0)
_SHIFT_X, _SHIFT_Y, _ROTATE, _FLIP = range(4)


def augment(images_BCHW: Tensor, indices_B: Tensor, *, ops: Sequence[str], seed: int, view: int) -> Tensor:
    """Shift, rotate and mirror each image by amounts that depend on (seed, its index, view) alone.

    Args:
        images_BCHW: Float raw pixels; what comes in from outside the frame is 0.
        indices_B: Row numbers in the training split, int64.
        ops: Of "shift" (up to 2 pixels at 28 x 28, in proportion otherwise), "rotate" (up to 12 degrees either way) and "flip"
            (left-right, half of the rows).
        seed: The run's or the stage's seed.
        view: Which variant of each image; the epoch, modulo the number of cached views.

    Returns:
        A float32 tensor of the same shape. With ops of "flip" alone, or none, pixels are moved and never interpolated.

    Raises:
        OutOfRange: An op that does not exist.
    """
    unknown = sorted(set(ops) - set(OPS))
    if unknown:
        message = f"augment has {unknown[0]!r}, wanted some of {', '.join(OPS)}."
        raise OutOfRange(message, hint="correct `data.augment`.", key="data.augment", value=unknown[0])
    images_BCHW = images_BCHW.float()
    if not ops:
        return images_BCHW
    key, rows_B = mix(seed, view), indices_B.to(images_BCHW.device)
    mirrored_B = uniform(key, rows_B, _FLIP) < 0.5 if "flip" in ops else None
    if "shift" not in ops and "rotate" not in ops:
        assert mirrored_B is not None
        return images_BCHW.flip(3).where(mirrored_B[:, None, None, None], images_BCHW)
    return _resample(images_BCHW, _grid(images_BCHW, key, rows_B, ops, mirrored_B))


def _grid(images_BCHW: Tensor, key: int, rows_B: Tensor, ops: Sequence[str], mirrored_B: Tensor | None) -> Tensor:
    """Where each output pixel is read, as (B, H, W, 2) in [-1, 1].

    Written as element-wise products: a batched matrix product may round differently with the size of the batch.
    """
    import torch

    height, width = images_BCHW.shape[2:]
    y_H1 = torch.arange(height, device=rows_B.device, dtype=torch.float32)[:, None] - (height - 1) / 2
    x_1W = torch.arange(width, device=rows_B.device, dtype=torch.float32)[None] - (width - 1) / 2
    angle_B = _spread(key, rows_B, _ROTATE, _MAX_ANGLE) if "rotate" in ops else torch.zeros(len(rows_B), dtype=torch.float64, device=rows_B.device)
    cos_B11, sin_B11 = (value.float()[:, None, None] for value in (angle_B.cos(), angle_B.sin()))
    sign_B11 = 1.0 if mirrored_B is None else (1.0 - 2.0 * mirrored_B.float())[:, None, None]
    from_x_BHW = (cos_B11 * x_1W - sin_B11 * y_H1) * sign_B11
    from_y_BHW = sin_B11 * x_1W + cos_B11 * y_H1
    if "shift" in ops:
        from_x_BHW = from_x_BHW + _spread(key, rows_B, _SHIFT_X, _MAX_SHIFT_RATIO * width).float()[:, None, None]
        from_y_BHW = from_y_BHW + _spread(key, rows_B, _SHIFT_Y, _MAX_SHIFT_RATIO * height).float()[:, None, None]
    return torch.stack((from_x_BHW * (2.0 / width), from_y_BHW * (2.0 / height)), dim=3)


def _spread(key: int, rows_B: Tensor, stream: int, limit: float) -> Tensor:
    return (uniform(key, rows_B, stream) * 2.0 - 1.0) * limit


def _resample(images_BCHW: Tensor, grid_BHW2: Tensor) -> Tensor:
    from torch.nn.functional import grid_sample

    return grid_sample(images_BCHW.contiguous(), grid_BHW2, mode="bilinear", padding_mode="zeros", align_corners=False)
