"""Students at step 0: smaller, inherited, rebuildable, and the same every time."""

from __future__ import annotations

import pytest
import torch

from foundry_ray import models
from foundry_ray.compression import apply_recipe, cost, effective, recipe_from_params, served
from foundry_ray.compression.prune import num_kept_channels
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.inference import open_runtime
from foundry_ray.protocols import Given

from .conftest import built


def student(teacher, schema, **params):
    _, recipe = recipe_from_params(params)
    return apply_recipe(teacher, recipe, Given(schema=schema), family=teacher.family), recipe


def widths(model):
    return [module.out_channels for module in model.modules() if isinstance(module, torch.nn.Conv2d)]


@pytest.mark.parametrize("family", ["resnet", "cnn"])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
def test_a_pruned_model_is_smaller_in_multiples_of_eight_and_can_be_rebuilt(family, ratio, images, schema):
    teacher = built(images, family=family, width=32)
    pruned, _ = student(teacher, schema, prune_ratio=ratio)
    assert cost(pruned, schema).num_params < cost(teacher, schema).num_params
    assert all(width % 8 == 0 for width in widths(pruned))
    again = models.rebuild(models.describe(pruned))
    again.load_state_dict(pruned.state_dict())
    pixels = torch.from_numpy(images[:4]).float()
    assert torch.equal(again.eval()(pixels), pruned.eval()(pixels))


def test_a_larger_ratio_never_keeps_more(images, schema):
    teacher = built(images, width=16, depth=2)
    kept = [widths(student(teacher, schema, prune_ratio=ratio)[0]) for ratio in (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)]
    for fewer, more in zip(kept[1:], kept, strict=False):
        assert all(a <= b for a, b in zip(fewer, more, strict=True))
    assert set(kept[-1]) == {8}


def test_pruning_keeps_the_channels_that_matter(images, schema):
    teacher = built(images, family="cnn", width=16)
    with torch.no_grad():
        weak = teacher.layers[0].conv.weight
        weak[8:] *= 1e-3
        teacher.layers[0].norm.weight[8:] *= 1e-3
        teacher.layers[0].norm.bias[8:] *= 1e-3
        teacher.layers[1].conv.weight[:, 8:] *= 1e-3
    pruned, _ = student(teacher, schema, prune_ratio=0.1)
    assert torch.equal(pruned.layers[0].conv.weight, teacher.layers[0].conv.weight[:8])


def test_a_group_of_eight_or_fewer_is_left_whole_and_others_are_rounded():
    importances = [torch.linspace(0, 1, 8), torch.linspace(0, 1, 24), torch.zeros(16)]
    assert num_kept_channels(importances, 0.5) == [8, 16, 8]
    assert num_kept_channels(importances, 0.0) == [8, 24, 16]


def test_shrinking_then_pruning_leaves_the_teacher_as_it_was(images, schema):
    teacher = built(images, width=16, depth=2)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    smaller, _ = student(teacher, schema, width=8, depth=1, prune_ratio=0.3)
    assert max(widths(smaller)) <= 32
    assert smaller.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_equal_recipes_give_equal_students_and_leave_the_global_seed_alone(images, schema):
    teacher = built(images, width=16)
    state = torch.random.get_rng_state()
    first, second = (student(teacher, schema, width=8, depth=1, prune_ratio=0.3)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(state, torch.random.get_rng_state())


def test_recipes_that_round_to_the_same_student_share_their_effective_hash(images, schema):
    teacher = built(images, width=16)
    a, b = student(teacher, schema, prune_ratio=0.50), student(teacher, schema, prune_ratio=0.505)
    c, d = student(teacher, schema, prune_ratio=0.50, weight_bits=8), student(teacher, schema, prune_ratio=0.8)
    assert a[1].sha256 != b[1].sha256
    assert effective(*a) == effective(*b)
    assert len({effective(*a), effective(*c), effective(*d)}) == 3


def test_a_student_wider_than_the_teacher_is_refused(images, schema):
    with pytest.raises(RecipeInfeasible, match="shrink"):
        student(built(images, width=8), schema, width=64, depth=1)


def test_a_teacher_of_no_family_or_of_another_is_refused(images, schema):
    _, recipe = recipe_from_params({"width": 8, "depth": 1})
    with pytest.raises(RecipeInfeasible, match="Linear belongs to no model family"):
        apply_recipe(torch.nn.Linear(2, 2), recipe, Given(schema=schema), family="resnet")
    with pytest.raises(RecipeInfeasible, match="the teacher is a cnn, but the recipe is for a resnet"):
        apply_recipe(built(images, family="cnn"), recipe, Given(schema=schema), family="resnet")


def test_the_served_file_is_int8_exactly_where_the_recipe_says_so(images, schema):
    teacher = built(images, width=16)
    small, recipe = student(teacher, schema, width=16, depth=1, weight_bits=8)
    plain = recipe_from_params({"width": 16, "depth": 1})[1]
    assert len(served(small, recipe, schema, images)) < len(served(small, plain, schema, images)) / 3
    assert open_runtime(served(small, recipe, schema, images)).run(images[:2]).shape == (2, 4)


def test_cost_counts_parameters_and_multiply_accumulates(schema):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3, stride=2, padding=1), torch.nn.Conv2d(6, 6, 3, groups=3), torch.nn.Flatten(), torch.nn.Linear(216, 4)
    )
    counted = cost(model, schema)
    assert counted.num_params == (9 * 6 + 6) + (2 * 9 * 6 + 6) + (216 * 4 + 4)
    assert counted.num_macs == 8 * 8 * 6 * 9 + 6 * 6 * 6 * 2 * 9 + 216 * 4
    assert (counted.num_params, counted.num_macs) == counted
