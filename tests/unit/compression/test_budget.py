"""A budget of accuracy settles which layers stay in fp32 before a student is trained, and that stays so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from foundry_ray.artifacts import manifests
from foundry_ray.compression import Budgets, Options, compress, effective, recipe_from_params, served
from foundry_ray.config import TrainConfig
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.protocols import Given

from .conftest import built

BUDGET = {"weight_bits": 8, "quantize.accuracy_budget": 0.5}


def sensitive(images) -> nn.Module:
    """A model whose last layer loses its classes in int8: one input of it is large, and says nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 4))
    rows, labels = torch.from_numpy(images).float(), torch.arange(len(images)) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(rows / 255), labels).backward()
        optimizer.step()
    with torch.no_grad():
        model[1].weight /= 255
        model[1].weight[0] = 0
        model[1].bias[0] = 1e5
        model[3].weight[:, 0] = 0
    return model.eval()


@pytest.fixture
def given(images, schema) -> Given:
    return Given(schema=schema, task="image_classification", inputs_N=images, labels_N=np.arange(len(images)) % 4)


def test_the_teachers_weights_say_which_layers_stay_and_the_students_say_nothing(images, given, schema):
    teacher, recipe = sensitive(images), recipe_from_params(BUDGET)[1]
    budgets = Budgets(teacher, given, images[:64])
    students = [nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 4)) for _ in range(3)]
    found = [budgets.settled(recipe, student) for student in students]
    assert {one.recipe.step("quantize").params["keep"] for one in found} == {"3"}
    assert "accuracy_budget" not in found[0].recipe.step("quantize").params
    assert found[0].notes[0].startswith("before training, with the teacher's weights: accuracy on 192 held-back training rows")
    assert len({len(served(student, found[0].recipe, schema, images[:64])) for student in students}) == 1


def test_budgets_that_keep_the_same_layers_are_the_same_student(images, given):
    budgets, student = Budgets(sensitive(images), given, images[:64]), sensitive(images)
    strict, mild, all_int8 = (
        budgets.settled(recipe_from_params({**BUDGET, "quantize.accuracy_budget": points})[1], student).recipe for points in (0.5, 1.0, 100)
    )
    assert (
        effective(student, strict) == effective(student, mild) == effective(student, recipe_from_params({"weight_bits": 8, "quantize.keep": "3"})[1])
    )
    assert effective(student, all_int8) == effective(student, recipe_from_params({"weight_bits": 8})[1])


def test_layers_that_the_student_has_no_more_are_left_out_and_parts_of_a_layer_stay_with_it(images, given):
    recipe, budgets = recipe_from_params(BUDGET)[1], Budgets(sensitive(images), given, images[:64])
    shorter = nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
    assert budgets.settled(recipe, shorter).recipe == recipe_from_params({"weight_bits": 8})[1]
    parts = nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.ReLU(), nn.Sequential(nn.Linear(16, 2, bias=False), nn.Linear(2, 4)))
    assert budgets.settled(recipe, parts).recipe.step("quantize").params["keep"] == "3.0,3.1"


def test_a_recipe_without_a_budget_is_left_as_it_is(images, given):
    model = built(images)
    for params in ({}, {"weight_bits": 8}, {"prune_ratio": 0.5}):
        recipe = recipe_from_params(params)[1]
        assert Budgets(model, given, images[:64]).settled(recipe, model) == (recipe, ())


def test_a_budget_that_leaves_nothing_to_quantize_is_refused_before_training(images, given, memory_store, reporter, clock):
    trained: list[object] = []
    with pytest.raises(RecipeInfeasible, match="no operator of this model has an int8 form but those that are kept"):
        compress(sensitive(images), {**BUDGET, "quantize.keep": "1,3"}, given, fit=trained.append, store=memory_store, clock=clock, reporter=reporter)
    assert not trained


def test_a_compressed_model_is_published_with_the_layers_that_were_settled_before_its_training(images, given, memory_store, reporter, clock):
    def wrecked(work):
        with torch.no_grad():
            work.model[1].weight.mul_(torch.linspace(0.1, 3, 16)[:, None])
        return work.model

    options = Options(device="cpu", calibration_rows=64, latency_s=0)
    artifact = compress(
        sensitive(images), BUDGET, given, fit=wrecked, train=TrainConfig(), store=memory_store, clock=clock, reporter=reporter, options=options
    )
    assert artifact.recipe.step("quantize").params == {"bits": 8, "keep": "3"}
    stored = json.loads(manifests.read_file(memory_store, artifact.artifact.key, "recipe.json"))
    assert stored["steps"][0]["params"] == {"bits": 8, "keep": "3"}
    assert any(note.startswith("before training, with the teacher's weights: ") for note in artifact.notes)
    assert "kept in fp32: 3" in artifact.notes
