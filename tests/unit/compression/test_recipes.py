"""Recipes: from a flat sample, in one order, in one form, and refused with the reason."""

from __future__ import annotations

import subprocess
import sys

import pytest

from foundry_ray.compression import check_recipe, recipe_from_params
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.types import CompressionRecipe, Step

SAMPLE = {
    "lr": 2e-3,
    "weight_bits": 8,
    "prune_ratio": 0.25,
    "depth": 1,
    "distil_alpha": 0.7,
    "distil_temperature": 3,
    "width": 16,
    "weight_decay": 0.01,
}


def test_a_sample_splits_into_hyperparameters_and_ordered_steps():
    hyperparams, recipe = recipe_from_params(SAMPLE)
    assert hyperparams == {
        "lr": 2e-3,
        "weight_decay": 0.01,
    }
    assert [step.kind for step in recipe.steps] == ["shrink", "prune", "distil", "quantize"]
    assert recipe.steps[0].params == {"width": 16, "depth": 1}
    assert recipe.steps[3].params == {"bits": 8}


def test_steps_that_ask_for_nothing_are_left_out():
    neutral = {"prune_ratio": 0.0, "weight_bits": 32, "distil_alpha": 0, "distil_temperature": 2.0}
    assert recipe_from_params(neutral)[1] == CompressionRecipe()


def test_equal_recipes_hash_equal_whatever_the_order_and_the_type_of_the_numbers():
    other = {**dict(reversed(SAMPLE.items())), "width": 16.0, "distil_temperature": 3.0}
    assert recipe_from_params(other)[1].sha256 == recipe_from_params(SAMPLE)[1].sha256


def test_defaults_are_filled_in():
    assert recipe_from_params({"distil_alpha": 0.5})[1].steps[0].params == {"alpha": 0.5, "temperature": 4.0}


def test_a_dotted_name_sets_the_parameter_of_any_step():
    assert recipe_from_params({"prune.ratio": 0.5})[1] == recipe_from_params({"prune_ratio": 0.5})[1]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prune_ratio": 0.99}, r"recipe step prune: ratio is 0.99, but must be less than or equal to 0.95"),
        ({"weight_bits": 5}, r"recipe step quantize: bits is 5, but must be 4, 8, 16 or 32"),
        ({"width": 16}, r"recipe step shrink: depth is missing"),
        ({"width": 1, "depth": 1}, r"width is 1, but must be greater than or equal to 2"),
        ({"distil_alpha": 1.5}, r"alpha is 1.5"),
        ({"prune.ratio": 0.5, "prune.amount": 1}, r"amount is no key of this section"),
        ({"thin.ratio": 0.5}, r"there is no recipe step 'thin', wanted one of distil, "),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(params, message):
    with pytest.raises(RecipeInfeasible, match=message) as caught:
        recipe_from_params(params)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert caught.value.reason


def test_a_step_twice_and_steps_out_of_order_are_refused():
    prune, quantize = Step(kind="prune", params={"ratio": 0.5}), Step(kind="quantize", params={"bits": 8})
    with pytest.raises(RecipeInfeasible, match="prune 2 times, wanted at most once"):
        check_recipe(CompressionRecipe(steps=(prune, prune)))
    with pytest.raises(RecipeInfeasible, match="quantize -> prune, wanted prune -> quantize"):
        check_recipe(CompressionRecipe(steps=(quantize, prune)))


def test_checking_a_recipe_loads_neither_torch_nor_a_runtime():
    code = (
        "import sys; from foundry_ray.compression import recipe_from_params as r; r({'width': 8, 'depth': 1, 'prune_ratio': .5, 'weight_bits': 8}); "
    )
    code += "import foundry_ray.evaluation, foundry_ray.inference; "
    code += "print({'torch', 'ray', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_who_learns_from_the_teacher_alone_need_not_say_how_much():
    alone = {"distil.kind": "none-of-labels"}
    assert recipe_from_params(alone) == recipe_from_params({**alone, "distil_alpha": 1.0})
    with pytest.raises(RecipeInfeasible, match="alpha"):
        recipe_from_params({"distil.kind": "logits"})
