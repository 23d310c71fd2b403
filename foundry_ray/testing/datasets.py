"""A tiny prepared data set in any store, without a source: three classes of 8x8 images that differ in where they are bright."""

from __future__ import annotations

import io

import numpy as np

from foundry_ray.artifacts.manifests import publish
from foundry_ray.protocols import ArtifactStore
from foundry_ray.types import DatasetRef, ImageSchema, Preprocessing, SplitInfo

_SCHEMA = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("top", "middle", "bottom"))


def publish_bands(
    store: ArtifactStore, *, num_train: int = 96, num_val: int = 48, num_test: int = 48, std: float = 60.0, seed: int = 0
) -> DatasetRef:
    """Publish it as `data.prepare` would. `std` 0 makes a data set on which every loss is NaN."""
    files: dict[str, bytes] = {}
    splits: dict[str, SplitInfo] = {}
    for number, (name, num_rows) in enumerate((("train", num_train), ("val", num_val), ("test", num_test))):
        images, labels = _bands(num_rows, np.random.default_rng((seed, number)))
        files |= {f"{name}_images.npy": _npy(images), f"{name}_labels.npy": _npy(labels)}
        splits[name] = SplitInfo(num_rows=num_rows, num_bytes=images.nbytes + labels.nbytes)
    artifact = publish(store, kind="dataset", files=files, meta={"seed": seed, "std": std}, created_at="")
    preprocessing = Preprocessing(mean=(70.0,), std=(std,))
    return DatasetRef(
        key=artifact.key, fingerprint=artifact.sha256, task="image_classification", splits=splits, schema=_SCHEMA, preprocessing=preprocessing
    )


def _bands(num_rows: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(num_rows, dtype=np.int64) % 3
    images = generator.integers(0, 100, (num_rows, 1, 8, 8), dtype=np.int64)
    for label in range(3):
        images[labels == label, :, 2 * label + 1 : 2 * label + 3, :] += 100
    return images.astype(np.uint8), labels


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
