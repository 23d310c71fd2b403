"""Tensors rounded to the grids of int8, with gradients that pass straight through inside a grid and vanish beyond (arXiv 1712.05877, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from foundry_ray.compression.integers import MAX_INT8

LEVELS = 255


def rounded_activation(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """float32 values on the grid that `grids.grid_of` gives this range (0-dim tensors), without waiting for a GPU."""
    low, high = low.double().clamp(max=0.0), high.double().clamp(min=0.0)
    width = (high - low) / LEVELS
    scale = torch.where(width > 0, width, 1.0)
    return torch.fake_quantize_per_tensor_affine(values, scale.float(), (-low / scale).round().int(), 0, LEVELS)


def rounded_weight(weight: Tensor) -> Tensor:
    """Filters of any shape with int8 values and a scale per output channel (axis 0): `integers.per_channel`."""
    largest = weight.detach().flatten(1).abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / MAX_INT8, 1.0).float()
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, torch.zeros_like(scale, dtype=torch.int32), 0, -MAX_INT8, MAX_INT8)


def rounded_rows(values: Tensor) -> Tensor:
    """Each row of the last axis with int8 values and a scale of its own: `integers.per_row`."""
    largest = values.detach().abs().amax(dim=-1, keepdim=True)
    scale = torch.where(largest > 0, largest / MAX_INT8, 1.0)
    return values + ((values / scale).round() * scale - values).detach()
