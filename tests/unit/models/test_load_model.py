"""Models out of the store."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foundry_ray import models
from foundry_ray.artifacts.manifests import publish
from foundry_ray.config import ModelConfig
from foundry_ray.errors import ArtifactCorrupt
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import CompressionRecipe, ImageSchema, ModelArtifact, Preprocessing, canonical_bytes

SCHEMA = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("a", "b"))


def build(width: int) -> nn.Module:
    return models.build(ModelConfig(width=width, depth=1), SCHEMA, Preprocessing(mean=(1.0,), std=(2.0,)), seed=0).eval()


def published(store: MemoryStore, weights: nn.Module, architecture: nn.Module) -> ModelArtifact:
    files = {
        "model.safetensors": models.tensors_to_bytes(weights.state_dict()),
        "architecture.json": canonical_bytes(models.describe(architecture)),
    }
    artifact = publish(store, kind="model", files=files, created_at="")
    return ModelArtifact(artifact=artifact, family="resnet", num_params=1, num_macs=1, size_bytes=1, recipe=CompressionRecipe())


def test_a_stored_model_answers_as_the_one_that_was_stored(store: MemoryStore) -> None:
    model = build(4).to(memory_format=torch.channels_last)
    loaded = models.load_model(store, published(store, model, model))
    pixels = torch.randint(0, 256, (3, 1, 8, 8)).float()
    assert not loaded.training
    torch.testing.assert_close(loaded(pixels), model(pixels), rtol=1e-5, atol=1e-6)


def test_weights_of_another_architecture_are_corrupt(store: MemoryStore) -> None:
    with pytest.raises(ArtifactCorrupt, match="weights and architecture do not fit"):
        models.load_model(store, published(store, build(4), build(6)))
