"""Which recipes only one process can train: several share out the weights, and what a step does with whole tensors is not shared."""

from __future__ import annotations

from foundry_ray.compression.apply import aids
from foundry_ray.compression.distil import source_of
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.protocols import Given
from foundry_ray.types import CompressionRecipe

_WHAT = {"sparsify": "masks of whole tensors", "quantize": "simulated int8", "distil": "a teacher in the step"}


def refuse_many_workers(recipe: CompressionRecipe, given: Given, *, num_workers: int) -> None:
    """Raises RecipeInfeasible where a step does something while the student trains, and several workers would train it."""
    if num_workers == 1:
        return
    for step in recipe.steps:
        is_at_hand = step.kind == "distil" and source_of(step) != "cached"
        if is_at_hand or aids(CompressionRecipe(steps=(step,)), given):
            what = _WHAT.get(step.kind, "work in each step")
            message = f"recipe step {step.kind} needs {what}, which one process does, but {num_workers} workers train a trial."
            hint = f"set `search.trial.workers: 1`, or take `{step.kind}` out of the space."
            raise RecipeInfeasible(message, hint=hint, recipe=step.kind, reason="several workers")
