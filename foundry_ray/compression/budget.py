"""Mixed precision that is settled before the first training step: which layers a budget of accuracy keeps in fp32 follows from the teacher's weights.

By a student's own weights it would be other layers at each rung, and so other bytes and another latency than were measured before its training.
The teacher's are given then, and bear the student's names; layers that the student has no more are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from foundry_ray.compression.recipes import check_recipe
from foundry_ray.protocols import Given
from foundry_ray.types import CompressionRecipe, Step, canonical_sha256, to_json

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

_BUDGET = "accuracy_budget"


class Settled(NamedTuple):
    """A recipe that names its layers, and how they were found, as sentences."""

    recipe: CompressionRecipe
    notes: tuple[str, ...] = ()


class Budgets:
    """Settles the recipes of one teacher's students; each way to store the teacher is looked at once.

    Args:
        teacher: With its trained weights.
        given: The training split.
        calibration_N: Raw rows of it that set int8 ranges.
    """

    def __init__(self, teacher: nn.Module, given: Given, calibration_N: np.ndarray) -> None:
        self._teacher = teacher
        self._given = given
        self._calibration_N = calibration_N
        self._found: dict[str, tuple[tuple[str, ...], str]] = {}

    def settled(self, recipe: CompressionRecipe, student: nn.Module) -> Settled:
        """A checked recipe with the layers that its budget keeps, instead of the budget; as it is where it has none.

        Raises:
            RecipeInfeasible: No choice of the teacher's layers is within the budget, or there are no rows to measure on.
        """
        from foundry_ray.compression.export import to_onnx
        from foundry_ray.compression.onnx_layers import layer_names

        step = recipe.step("quantize")
        if step is None or step.params.get(_BUDGET) is None:
            return Settled(recipe)
        kept, told = self._kept(step)
        names = layer_names(to_onnx(student, self._given.schema))
        here = [name for name in names if any(name == one or name.startswith(f"{one}.") for one in kept)]
        params = {name: value for name, value in step.params.items() if name not in (_BUDGET, "keep")}
        if here:
            params["keep"] = ",".join(here)
        steps = tuple(Step(kind="quantize", params=params) if other.kind == "quantize" else other for other in recipe.steps)
        return Settled(check_recipe(CompressionRecipe(steps=steps)), (f"before training, with the teacher's weights: {told}",))

    def _kept(self, step: Step) -> tuple[tuple[str, ...], str]:
        from foundry_ray.compression.export import to_onnx
        from foundry_ray.compression.quantize import kept_within
        from foundry_ray.compression.quantize_params import QuantizeParams

        known = canonical_sha256(to_json(step))
        if known not in self._found:
            params = QuantizeParams.model_validate(dict(step.params))
            self._found[known] = kept_within(to_onnx(self._teacher, self._given.schema), self._calibration_N, params, self._given)
        return self._found[known]
