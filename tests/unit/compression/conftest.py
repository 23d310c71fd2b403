"""Small models with batch-norm statistics that are not the initial ones, and images for them."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from foundry_ray import models
from foundry_ray.artifacts import manifests
from foundry_ray.config import ModelConfig
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import DatasetRef, ImageSchema, Preprocessing, SplitInfo

SCHEMA = ImageSchema(channels=1, height=16, width=16, dtype="uint8", classes=("zero", "one", "two", "three"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors lose more time to waking threads than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def schema() -> ImageSchema:
    return SCHEMA


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Four classes: a bright square in one of the corners, on noise. Row i has the class i % 4."""
    generator = np.random.default_rng(0)
    rows = generator.integers(0, 120, (256, 1, 16, 16), dtype=np.uint8)
    for row, image in enumerate(rows[:, 0]):
        y, x = divmod(row % 4, 2)
        image[8 * y + 1 : 8 * y + 6, 8 * x + 1 : 8 * x + 6] += 100
    return rows


def built(images: np.ndarray, *, family: str = "resnet", width: int = 8, depth: int = 1, schema: ImageSchema = SCHEMA) -> nn.Module:
    """A model that has seen one batch in training mode, in evaluation mode."""
    preprocessing = Preprocessing(mean=(61.3,) * schema.channels, std=(48.7,) * schema.channels)
    model = models.build(ModelConfig(family=family, width=width, depth=depth), schema, preprocessing, seed=0)
    with torch.no_grad():
        for _ in range(3):
            model(torch.from_numpy(images).float())
    return model.eval()


@pytest.fixture
def model(images: np.ndarray) -> nn.Module:
    return built(images)


@pytest.fixture
def trained(taught: nn.Module) -> nn.Module:
    """A student that has learnt the corners; each test has its own, and may change it."""
    return copy.deepcopy(taught)


@pytest.fixture(scope="session")
def taught(images: np.ndarray) -> nn.Module:
    """What `trained` copies."""
    model = built(images, width=8).train()
    labels = torch.arange(len(images)) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(24):
        rows = torch.arange(step * 32, step * 32 + 32) % len(images)
        loss = nn.functional.cross_entropy(model(torch.from_numpy(images)[rows].float()), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture
def dataset(memory_store: MemoryStore, images: np.ndarray) -> DatasetRef:
    """A published data set with equal splits."""
    labels = np.arange(len(images), dtype=np.int64) % 4
    files = {f"{split}_{kind}.npy": _npy(array) for split in ("train", "val", "test") for kind, array in (("images", images), ("labels", labels))}
    ref = manifests.publish(memory_store, kind="dataset", files=files, created_at="2026-01-01T00:00:00+00:00")
    splits = dict.fromkeys(("train", "val", "test"), SplitInfo(num_rows=len(images), num_bytes=images.nbytes))
    return DatasetRef(
        key=ref.key,
        fingerprint="f" * 64,
        task="image_classification",
        splits=splits,
        schema=SCHEMA,
        preprocessing=Preprocessing(mean=(61.3,), std=(48.7,)),
    )


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
