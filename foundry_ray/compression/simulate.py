"""Judging a model in training as what would be shipped of it, at every rung."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def simulate(model: nn.Module, calibration_NCHW: np.ndarray) -> nn.Module:
    """A module that takes raw pixels as floats and gives the int8 model's logits, without gradients; 0.1-0.2 s for a small student.

    Args:
        model: As trained so far; left unchanged.
        calibration_NCHW: Raw uint8 rows of the training split, the ones that the shipped file is calibrated on.

    Raises:
        RecipeInfeasible: There is nothing to calibrate with, or nothing to quantize.
    """
    from foundry_ray.compression.imitation import int8_module

    return int8_module(model, calibration_NCHW)
