"""Shrinking: what a smaller member inherits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foundry_ray import models
from foundry_ray.config import ModelConfig
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.types import ImageSchema, Preprocessing

SCHEMA = ImageSchema(channels=1, height=12, width=12, dtype="uint8", classes=("a", "b", "c"))
families = pytest.mark.parametrize("family", ["cnn", "resnet"])


def teacher(family: str, *, width: int = 8, depth: int = 2) -> nn.Module:
    """A model whose batch norms have seen data, so that each channel has its own scale."""
    model = models.build(ModelConfig(family=family, width=width, depth=depth), SCHEMA, Preprocessing(mean=(30.0,), std=(70.0,)), seed=0)
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for vector in (module.weight.data, module.running_var):
                vector.copy_(torch.rand(vector.shape, generator=generator) + 0.5)
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
    return model.eval()


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (5, 1, 12, 12), generator=torch.Generator().manual_seed(1)).float()


@families
def test_shrinking_to_the_same_size_changes_nothing(family: str) -> None:
    model = teacher(family)
    same = models.get(family).shrink(model, SCHEMA, {"width": 8, "depth": 2}).eval()
    torch.testing.assert_close(same(pixels()), model(pixels()), rtol=1e-5, atol=1e-6)


@families
def test_channels_without_any_weight_are_dropped_without_loss(family: str) -> None:
    """A teacher of width 4, widened to 8 by dead channels, shrinks back to itself."""
    small = teacher(family, width=4)
    wide = _widened(family, small)
    torch.testing.assert_close(wide(pixels()), small(pixels()), rtol=1e-4, atol=1e-5)
    back = models.get(family).shrink(wide, SCHEMA, {"width": 4, "depth": 2}).eval()
    torch.testing.assert_close(back(pixels()), small(pixels()), rtol=1e-4, atol=1e-5)


@families
def test_a_smaller_member_has_the_size_asked_for_and_finite_answers(family: str) -> None:
    student = models.get(family).shrink(teacher(family), SCHEMA, {"width": 3, "depth": 1}).eval()
    fresh = models.get(family).build(SCHEMA, {"width": 3, "depth": 1})
    assert models.describe(student) == models.describe(fresh)
    assert student(pixels()).isfinite().all()


def test_depth_drops_the_block_that_adds_least() -> None:
    model = teacher("resnet")
    model.blocks[0].second.norm.weight.data.mul_(1e-3)
    student = models.get("resnet").shrink(model, SCHEMA, {"width": 8, "depth": 1})
    assert torch.equal(student.blocks[0].first.conv.weight.sum(), model.blocks[1].first.conv.weight.sum())


@families
def test_a_student_wider_than_its_teacher_is_infeasible(family: str) -> None:
    with pytest.raises(RecipeInfeasible, match=r"wants 16 .*channels, but the teacher"):
        models.get(family).shrink(teacher(family), SCHEMA, {"width": 16, "depth": 1})


@families
def test_a_student_deeper_than_its_teacher_is_infeasible(family: str) -> None:
    with pytest.raises(RecipeInfeasible, match="depth is 3, but a stage of the teacher has 2"):
        models.get(family).shrink(teacher(family), SCHEMA, {"width": 4, "depth": 3})


@families
def test_another_family_cannot_inherit(family: str) -> None:
    other = "resnet" if family == "cnn" else "cnn"
    with pytest.raises(RecipeInfeasible, match=f"wanted a {family}"):
        models.get(family).shrink(teacher(other), SCHEMA, {"width": 4, "depth": 1})


def test_a_size_out_of_range_is_infeasible() -> None:
    with pytest.raises(RecipeInfeasible, match="depth is 0"):
        models.get("resnet").shrink(teacher("resnet"), SCHEMA, {"width": 4, "depth": 0})


def _widened(family: str, small: nn.Module) -> nn.Module:
    """The same function with twice the channels: the new ones are dead, and interleaved, so that order alone cannot find them."""
    wide = models.get(family).build(SCHEMA, {"width": 8, "depth": 2})
    weights = wide.state_dict()
    for name, old in small.state_dict().items():
        new = weights[name]
        if new.shape == old.shape:
            new.copy_(old)
            continue
        new.fill_(1.0 if name.endswith("running_var") else 0.0)
        places = tuple(slice(1, None, 2) if to == 2 * of else slice(None) for of, to in zip(old.shape, new.shape, strict=True))
        new[places] = old
    return wide.eval()
