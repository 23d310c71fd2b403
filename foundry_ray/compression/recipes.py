"""From a flat sample of a search space to hyperparameters and a recipe, and whether a recipe makes sense.

Steps act in one order: what changes the shape of the model (trim_vocabulary, shrink, factorize, prune) or its weights (sparsify), how it is trained
(distil), how it is stored (quantize), what runs it (runtime).
"""

from __future__ import annotations

from collections.abc import Mapping

from foundry_ray.compression import steps
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.protocols import LooksAtRecipe
from foundry_ray.types import CompressionRecipe, Scalar, Step

PLAIN_NAMES = {
    "width": ("shrink", "width"),
    "depth": ("shrink", "depth"),
    "prune_ratio": ("prune", "ratio"),
    "distil_alpha": ("distil", "alpha"),
    "distil_temperature": ("distil", "temperature"),
    "weight_bits": ("quantize", "bits"),
    "runtime": ("runtime", "name"),
    "runtime_threads": ("runtime", "threads"),
    "runtime_precision": ("runtime", "precision"),
}
"""A search parameter's plain name -> the step and the parameter that it sets; `step.parameter` names any other step's."""
_ORDER = ("trim_vocabulary", "shrink", "factorize", "prune", "sparsify", "distil", "quantize", "runtime")
RESIZING = ("trim_vocabulary", "shrink", "factorize", "prune")
"""Steps that make tensors smaller, before the first training step."""
# A third party's step changes the model's shape or weights, so it acts after the shipped ones that do.
_OTHERS = _ORDER.index("distil") - 0.5
# These values ask for nothing, so the step is left out and equal students get equal recipes.
_NEUTRAL = {"prune": ("ratio", 0), "sparsify": ("ratio", 0), "distil": ("alpha", 0), "quantize": ("bits", 32)}
# But not beside these, which ask for something all the same.
_ASKS_ANYWAY = {"distil": (("kind", "features"), ("kind", "attention"), ("kind", "none-of-labels"), ("init", "scratch"))}

# Nor beside these, where they are above 0.
_RATIOS = {"prune": ("heads_ratio", "layers_ratio")}


def recipe_from_params(params: Mapping[str, Scalar]) -> tuple[Mapping[str, Scalar], CompressionRecipe]:
    """Split a sample into hyperparameters of training (`lr`, `weight_decay`, ...) and the checked recipe.

    Raises:
        RecipeInfeasible: A value outside its range, or a step that lacks a parameter.
    """
    hyperparams: dict[str, Scalar] = {}
    by_kind: dict[str, dict[str, Scalar]] = {}
    for name, value in params.items():
        kind, _, parameter = name.rpartition(".")
        if name in PLAIN_NAMES:
            kind, parameter = PLAIN_NAMES[name]
        if kind:
            by_kind.setdefault(kind, {})[parameter] = value
        else:
            hyperparams[name] = value
    present = [Step(kind=kind, params=values) for kind, values in by_kind.items() if not _is_neutral(kind, values)]
    return hyperparams, check_recipe(CompressionRecipe(steps=tuple(sorted(present, key=_position))))


def check_recipe(recipe: CompressionRecipe) -> CompressionRecipe:
    """The recipe with every step's defaults filled in. Needs no torch.

    Raises:
        RecipeInfeasible: An unknown step, a step twice, steps out of order or that do not go together, or parameters outside their range.
    """
    kinds = [step.kind for step in recipe.steps]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise _infeasible(f"the recipe holds {kind} {kinds.count(kind)} times, wanted at most once", "keep one of them.")
    wanted = [step.kind for step in sorted(recipe.steps, key=_position)]
    if kinds != wanted:
        raise _infeasible(f"the steps are {' -> '.join(kinds)}, wanted {' -> '.join(wanted)}", "put them in that order.")
    checked = CompressionRecipe(steps=tuple(Step(kind=step.kind, params=steps.get(step.kind).check(step.params)) for step in recipe.steps))
    for step in checked.steps:
        compressor = steps.get(step.kind)
        if isinstance(compressor, LooksAtRecipe):
            compressor.check_beside(step.params, checked)
    return checked


def quantized_bits(recipe: CompressionRecipe) -> int:
    """Bits of a stored weight: 8 or 32."""
    step = recipe.step("quantize")
    return int(step.params["bits"]) if step else 32


def _is_neutral(kind: str, params: Mapping[str, Scalar]) -> bool:
    name, value = _NEUTRAL.get(kind, ("", None))
    asks = any(params.get(other) == asked for other, asked in _ASKS_ANYWAY.get(kind, ())) or any(params.get(other) for other in _RATIOS.get(kind, ()))
    return bool(name) and params.get(name) == value and not asks


def _position(step: Step) -> float:
    return _ORDER.index(step.kind) if step.kind in _ORDER else _OTHERS


def _infeasible(reason: str, hint: str) -> RecipeInfeasible:
    return RecipeInfeasible(f"recipe: {reason}.", hint=hint, reason=reason)
