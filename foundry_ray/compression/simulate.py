"""Judging a model in training as what would be shipped of it, at every rung."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_ray.protocols import Given
from foundry_ray.types import CompressionRecipe, Step

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

_INT8 = CompressionRecipe(steps=(Step(kind="quantize", params={"bits": 8}),))


def simulate(model: nn.Module, calibration_N: np.ndarray, recipe: CompressionRecipe = _INT8, *, given: Given | None = None) -> nn.Module:
    """A module that takes raw inputs as the model does and gives the shipped file's logits, without gradients; 0.1-0.2 s for a small student.

    Args:
        model: As trained so far; left unchanged.
        calibration_N: Raw rows of the training split, the ones that the shipped file is calibrated on.
        recipe: Says how numbers are stored; static int8 where it is not given.
        given: The whole training split, where the recipe draws rows of it or holds them back, and what an input looks like.

    Raises:
        RecipeInfeasible: There is nothing to calibrate with, or nothing to quantize; or the recipe cannot be kept.
    """
    from foundry_ray.compression.imitation import shipped_module

    return shipped_module(model, calibration_N, recipe, given)
