"""The step `distil`: what may be asked of it, the teacher's targets of what training will see, and students from scratch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from foundry_ray.compression import apply_recipe, distillation, recipe_from_params, source_of, teacher_targets
from foundry_ray.data.transforms import augment
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.protocols import Given
from foundry_ray.training.feed import DistilTargets
from foundry_ray.types import CompressionRecipe


def test_targets_are_the_logits_of_the_augmented_views(trained, images, reporter):
    targets = teacher_targets(trained, images[:20], augment=("shift", "rotate"), views=3, seed=5, batch_size=8, reporter=reporter)
    assert (targets.shape, targets.dtype) == ((3, 20, 4), np.float16)
    seen = augment(torch.from_numpy(images[:20]).float(), torch.arange(20), ops=("shift", "rotate"), seed=5, view=2)
    with torch.no_grad():
        expected = trained(seen).numpy()
    np.testing.assert_allclose(targets[2], expected, atol=0.05 * np.ptp(expected))
    assert not np.array_equal(targets[0], targets[1])
    assert reporter.progresses[-1] == (3, 3, "teacher targets")


def test_without_augmentation_there_is_one_view_which_serves_all_epochs(trained, images, reporter):
    targets = teacher_targets(trained, images[:10], augment=(), views=2, seed=0, batch_size=4, reporter=reporter)
    assert targets.shape == (1, 10, 4)
    taught = DistilTargets(logits_VNC=torch.from_numpy(targets), alpha=1.0, temperature=1.0)
    assert [taught.view_of(epoch) for epoch in range(3)] == [0, 0, 0]
    assert reporter.progresses == [(1, 1, "teacher targets")]


def test_a_teacher_that_is_asked_answers_the_same_bits_afterwards(model, images, reporter):
    rows = torch.from_numpy(images[:4]).float()
    model.train()
    before, strides = copy.deepcopy(model).eval()(rows), [param.stride() for param in model.parameters()]
    teacher_targets(model, images[:4], augment=(), views=1, seed=0, batch_size=4, reporter=reporter)
    assert model.training
    assert [param.stride() for param in model.parameters()] == strides
    assert torch.equal(model.eval()(rows), before)


def test_of_several_teachers_each_ones_logits_are_kept(trained, images, reporter):
    def views(teacher):
        return teacher_targets(teacher, images[:10], augment=("shift",), views=2, seed=0, batch_size=4, reporter=reporter)

    other = copy.deepcopy(trained)
    other.head.weight.data.mul_(2)
    both = views([trained, other])
    assert (both.shape, both.dtype) == ((2, 10, 2, 4), np.float16)
    assert np.array_equal(both[:, :, 0], views(trained))
    assert np.array_equal(both[:, :, 1], views(other))
    assert not np.array_equal(both[:, :, 0], both[:, :, 1])


def step_of(**params):
    return recipe_from_params({"distil_alpha": 0.5} | {f"distil.{name}": value for name, value in params.items()})[1].steps[0]


@pytest.mark.parametrize("same", [{}, {"kind": "logits"}, {"source": "cached"}, {"init": "teacher", "temperature": 4}])
def test_what_is_so_anyway_leaves_a_recipe_as_it_was(same):
    assert step_of(**same).params == {"alpha": 0.5, "temperature": 4.0}


def test_equal_recipes_are_equal_however_they_are_written():
    assert step_of(kind="features") == step_of(kind="features", source="online", beta=1)
    assert step_of(kind="self") == step_of(kind="self", source="average")
    assert step_of(kind="self", source="cached", init="scratch") != step_of(kind="self")


@pytest.mark.parametrize(
    ("params", "source"),
    [
        ({}, "cached"),
        ({"source": "online"}, "online"),
        ({"kind": "features"}, "online"),
        ({"kind": "attention"}, "online"),
        ({"kind": "self"}, "average"),
    ],
)
def test_the_kind_says_where_answers_come_from(params, source):
    assert source_of(step_of(**params)) == source


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kind": "features", "source": "cached"}, "layers of all views are too large to keep"),
        ({"kind": "attention", "source": "average"}, "layers of all views are too large to keep"),
        ({"beta": 2.0}, "beta is 2 and kind is logits, which compares no layers"),
        ({"source": "average"}, "source is average and kind is logits"),
        ({"kind": "self", "source": "cached"}, "teaches nothing to a student that begins with its weights"),
        ({"kind": "self", "init": "scratch", "alpha": 1.0}, "nobody in it has seen a label"),
        ({"kind": "none-of-labels"}, "alpha is 0.5 and kind is none-of-labels, wanted 1"),
        ({"kind": "rumours"}, "kind is 'rumours'"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(params, message):
    with pytest.raises(RecipeInfeasible, match=message):
        step_of(**params)


@pytest.mark.parametrize("resizing", [{"width": 4, "depth": 1}, {"prune_ratio": 0.5}])
def test_a_student_that_is_born_again_keeps_its_teachers_size(resizing):
    born_again = {"distil_alpha": 0.5, "distil.kind": "self", "distil.source": "cached", "distil.init": "scratch"}
    with pytest.raises(RecipeInfeasible, match=r"has its teacher's size, and (shrink|prune) makes it another's"):
        recipe_from_params({**born_again, **resizing})
    assert recipe_from_params(born_again)[1].steps
    assert recipe_from_params({**born_again, **resizing, "distil.kind": "logits"})[1].steps


@pytest.mark.parametrize("asked", [{"kind": "features"}, {"kind": "attention"}, {"init": "scratch"}])
def test_a_teachers_share_of_nothing_is_no_step_unless_something_else_is_asked(asked):
    assert recipe_from_params({"distil_alpha": 0.0})[1] == CompressionRecipe()
    assert recipe_from_params({"distil_alpha": 0.0} | {f"distil.{name}": value for name, value in asked.items()})[1].step("distil")


def test_a_student_from_scratch_has_the_form_of_the_pruned_teacher_and_nothing_of_its_weights(trained, schema):
    recipe = recipe_from_params({"width": 4, "depth": 1, "distil_alpha": 0.5, "distil.init": "scratch"})[1]
    pruned, one, same, other = (
        apply_recipe(trained, changed, Given(schema=schema, seed=seed), family="resnet")
        for changed, seed in ((CompressionRecipe(steps=recipe.steps[:1]), 1), (recipe, 1), (recipe, 1), (recipe, 2))
    )
    tensors = [model.state_dict() for model in (pruned, one, same, other)]
    assert {name: tensor.shape for name, tensor in tensors[0].items()} == {name: tensor.shape for name, tensor in tensors[1].items()}
    assert all(torch.equal(tensor, tensors[2][name]) for name, tensor in tensors[1].items())
    drawn = [name for name, tensor in tensors[1].items() if "weight" in name and tensor.ndim > 1]
    assert len(drawn) > 5
    assert not any(torch.equal(tensors[1][name], tensors[0][name]) or torch.equal(tensors[1][name], tensors[3][name]) for name in drawn)
    assert torch.equal(tensors[1]["normalize.mean"], trained.normalize.mean)
    assert not tensors[1]["stem.1.running_mean"].any()
    assert one.training


def test_a_model_of_no_family_begins_anew_by_its_own_methods(schema):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    plain = nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
    recipe = recipe_from_params({"distil_alpha": 0.5, "distil.init": "scratch"})[1]
    first, second = (apply_recipe(plain, recipe, Given(schema=schema, seed=5), family="own") for _ in range(2))
    assert torch.equal(first[1].weight, second[1].weight)
    assert not torch.equal(first[1].weight, plain[1].weight)
    with pytest.raises(RecipeInfeasible, match=r"Own '1' has weights and no `reset_parameters`"):
        apply_recipe(nn.Sequential(nn.Flatten(), Own()), recipe, Given(schema=schema), family="own")


def test_the_layers_of_several_teachers_are_not_compared(trained):
    with pytest.raises(RecipeInfeasible, match="the layers of 2 teachers cannot be compared"):
        distillation(step_of(kind="features"), teachers=[trained, trained])
    assert len(distillation(step_of(source="online"), teachers=[trained, trained]).models) == 2
