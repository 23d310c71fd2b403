"""Families: built, described, rebuilt and pruned."""

from __future__ import annotations

import pytest
import torch
import torch_pruning
from torch import nn

from foundry_ray import models
from foundry_ray.config import ModelConfig
from foundry_ray.errors import ArtifactCorrupt, ConfigError, OutOfRange
from foundry_ray.types import ImageSchema, Preprocessing

SCHEMA = ImageSchema(channels=1, height=12, width=12, dtype="uint8", classes=("a", "b", "c"))
PREPROCESSING = Preprocessing(mean=(30.0,), std=(70.0,))
families = pytest.mark.parametrize("family", ["cnn", "resnet"])


def build(family: str, *, width: int = 8, depth: int = 2, seed: int = 0) -> nn.Module:
    return models.build(ModelConfig(family=family, width=width, depth=depth), SCHEMA, PREPROCESSING, seed=seed).eval()


def pixels(rows: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (rows, 1, 12, 12), generator=torch.Generator().manual_seed(1)).float()


def test_the_default_teacher_has_0_70_million_parameters() -> None:
    mnist = ImageSchema(channels=1, height=28, width=28, dtype="uint8", classes=tuple("0123456789"))
    model = models.build(ModelConfig(), mnist, PREPROCESSING, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 696_042


@families
def test_equal_seeds_give_equal_models_and_leave_the_global_seed_alone(family: str) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second, other = build(family), build(family), build(family, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first(pixels()), second(pixels()))
    assert not torch.equal(first(pixels()), other(pixels()))


@families
def test_a_model_normalises_raw_pixels_itself(family: str) -> None:
    model, plain = build(family), build(family)
    plain.normalize.mean.zero_()
    plain.normalize.std.fill_(1.0)
    torch.testing.assert_close(model(pixels()), plain((pixels() - 30.0) / 70.0))


@families
def test_a_description_and_the_weights_give_the_model_back(family: str) -> None:
    model = build(family)
    twin = models.rebuild(models.describe(model)).eval()
    twin.load_state_dict(models.tensors_from_bytes(models.tensors_to_bytes(model.state_dict())))
    assert torch.equal(twin(pixels()), model(pixels()))


@families
def test_a_pruned_model_is_described_as_it_is(family: str) -> None:
    model = build(family)
    importance = torch_pruning.importance.MagnitudeImportance(p=2)
    torch_pruning.pruner.MagnitudePruner(
        model, pixels(1), importance=importance, global_pruning=True, pruning_ratio=0.4, ignored_layers=[model.head]
    ).step()
    twin = models.rebuild(models.describe(model)).eval()
    twin.load_state_dict(model.state_dict())
    assert sum(weight.numel() for weight in twin.parameters()) < sum(weight.numel() for weight in build(family).parameters())
    assert torch.equal(twin(pixels()), model(pixels()))


@families
def test_channels_last_and_bf16_train_a_step(family: str) -> None:
    model = build(family).train().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits_BC = model(pixels().to(memory_format=torch.channels_last))
    logits_BC.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_an_unknown_family_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="no model family 'vgg', wanted one of cnn, mlp, pretrained, resnet, rnn, transformer"):
        models.get("vgg")


def test_a_foreign_module_has_no_description() -> None:
    with pytest.raises(ConfigError, match="Linear belongs to no model family"):
        models.describe(nn.Linear(2, 2))


def test_a_size_out_of_range_is_refused() -> None:
    with pytest.raises(OutOfRange, match="width is 1, but must be greater than or equal to 2"):
        models.get("resnet").build(SCHEMA, {"width": 1, "depth": 2})


def test_statistics_for_other_channels_are_refused() -> None:
    three = Preprocessing(mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0))
    with pytest.raises(ConfigError, match="got 3 means and 3 standard deviations, wanted 1 of each"):
        models.build(ModelConfig(width=4), SCHEMA, three, seed=0)


def test_an_architecture_that_does_not_hang_together_is_corrupt() -> None:
    description = models.describe(build("resnet"))
    description["blocks"][1]["out"] = 5
    with pytest.raises(ArtifactCorrupt, match="block 1 takes 8 channels, gives 5 at stride 1 and has no projection"):
        models.rebuild(description)


@pytest.mark.parametrize("broken", [None, {}, {"family": "resnet"}, {"family": "cnn", "channels": 1, "num_classes": 2, "layers": []}])
def test_a_broken_architecture_is_corrupt(broken: object) -> None:
    with pytest.raises(ArtifactCorrupt, match="architecture"):
        models.rebuild(broken)


def test_broken_safetensors_are_corrupt() -> None:
    data = models.tensors_to_bytes({"weight": torch.zeros(4)})
    with pytest.raises(ArtifactCorrupt, match="are no safetensors file"):
        models.tensors_from_bytes(data[:-3])
