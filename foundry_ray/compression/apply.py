"""Carrying a recipe out: the student before its first training step, and the file that would be shipped of it at any time."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from foundry_ray.compression import steps
from foundry_ray.compression.recipes import check_recipe, quantized_bits
from foundry_ray.compression.runtime import runtime_of
from foundry_ray.errors import BadRecord, RecipeInfeasible
from foundry_ray.inference import open_choice, runtime_meta
from foundry_ray.protocols import ActsInTraining, Given, RuntimeChoice, TrainingAid
from foundry_ray.types import CompressionRecipe, Json, Schema, canonical_sha256, to_json

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def apply_recipe(teacher: nn.Module, recipe: CompressionRecipe, given: Given, *, family: str) -> nn.Module:
    """The student at step 0, with weights inherited from the teacher, which is left unchanged.

    Channel counts are settled here and stay: what is measured before training is what is trained.

    Args:
        teacher: The trained teacher.
        recipe: Its steps act in order; those that act later (distil, quantize) change nothing now.
        given: What the steps may look at, and the seed of whatever they draw.
        family: The family that the teacher belongs to.

    Raises:
        RecipeInfeasible: The recipe contradicts itself or the teacher.
    """
    import torch

    got = getattr(teacher, "family", family)
    if got != family:
        raise RecipeInfeasible(f"the teacher is a {got}, but the recipe is for a {family}.", hint="use the teacher's family.", reason="wrong family")
    student = copy.deepcopy(teacher)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(given.seed)  # and no GPU's, which nobody would put back
        for step in check_recipe(recipe).steps:
            student = steps.get(step.kind).apply(student, step.params, given=given)
    return student.train()


def aids(recipe: CompressionRecipe, given: Given) -> tuple[TrainingAid, ...]:
    """Who acts while the student trains, in the order of the steps."""
    acting = ((steps.get(step.kind), step.params) for step in recipe.steps)
    found = (one.aid(params, given=given) for one, params in acting if isinstance(one, ActsInTraining))
    return tuple(aid for aid in found if aid is not None)


def effective(model: nn.Module, recipe: CompressionRecipe) -> str:
    """What a recipe comes to: hex sha256 of all tensor shapes, of the storage and of the runtime. Recipes that round to the same student share it."""
    shapes: dict[str, Json] = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    runs = runtime_of(recipe)
    runtime: dict[str, Json] = {} if runs == RuntimeChoice() else runtime_meta(runs)
    step = recipe.step("quantize")
    storage = {name: value for name, value in steps.get(step.kind).check(step.params).items() if name != "bits"} if step else {}
    more: dict[str, Json] = {"storage": to_json(storage)} if storage else {}
    return canonical_sha256({"shapes": shapes, "bits": quantized_bits(recipe), **runtime, **more})


def served(model: nn.Module, recipe: CompressionRecipe, schema: Schema, calibration_N: np.ndarray, *, given: Given | None = None) -> bytes:
    """The ONNX file that would be shipped of this model as it is now, its numbers stored as the recipe says.

    Args:
        model: A student, before, in or after its training.
        recipe: What it is made by; a budget that `Budgets` has not settled is kept by the weights of this moment.
        schema: What one input looks like.
        calibration_N: Raw rows of the training split.
        given: The whole training split, where the recipe draws rows of it or holds them back.

    Raises:
        RecipeInfeasible: It cannot be stored so, or its runtime does not take the file.
    """
    from foundry_ray.compression.export import to_onnx
    from foundry_ray.compression.fake_quant import detached
    from foundry_ray.compression.quantize import params_of, quantized

    plain, learnt = detached(model)
    onnx, params = to_onnx(plain, schema), params_of(recipe)
    if params is None:
        return onnx
    made = quantized(onnx, calibration_N, params, given=given, learnt=learnt).onnx
    if params.scheme != "static":
        check_loads(made, recipe, what=params.label)
    return made


def check_loads(onnx: bytes, recipe: CompressionRecipe, *, what: str) -> None:
    """Raises RecipeInfeasible where the recipe's runtime does not take a file; takes some milliseconds."""
    choice = runtime_of(recipe)
    try:
        open_choice(onnx, choice)
    except BadRecord as error:
        message = f"quantize: {choice.name} does not take {what}: {error.message}"
        raise RecipeInfeasible(message, hint="use another `scheme`, or another runtime.", recipe="quantize", reason=error.message) from error
