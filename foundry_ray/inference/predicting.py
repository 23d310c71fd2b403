"""Batch prediction with a stored model, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from foundry_ray.inference.runtimes import Device, Runtime, open_runtime
from foundry_ray.protocols import ArtifactStore
from foundry_ray.types import ModelArtifact

if TYPE_CHECKING:
    import numpy as np

SERVED_FILE = "model.onnx"
_BATCH_ROWS = 64


def load_served(store: ArtifactStore, model: ModelArtifact) -> bytes:
    """The bytes of the file that is served, verified. Raises ArtifactNotFound or ArtifactCorrupt."""
    from foundry_ray.artifacts import manifests

    return manifests.read_file(store, model.artifact.key, SERVED_FILE)


def predict(store: ArtifactStore, model: ModelArtifact, images_NCHW: np.ndarray, *, threads: int = 1, device: Device = "cpu") -> np.ndarray:
    """Logits float32 (N, classes) of raw uint8 images (N, C, H, W). Raises BadRecord for another shape or dtype."""
    return run_batched(open_runtime(load_served(store, model), threads=threads, device=device), images_NCHW)


def run_batched(runtime: Runtime, images_NCHW: np.ndarray, *, batch_rows: int = _BATCH_ROWS) -> np.ndarray:
    """Run any number of rows, at most `batch_rows` at a time, so that memory stays bounded."""
    import numpy as np

    return np.concatenate(list(_batches(runtime, images_NCHW, batch_rows)))


def _batches(runtime: Runtime, images_NCHW: np.ndarray, batch_rows: int) -> Iterator[np.ndarray]:
    for start in range(0, max(len(images_NCHW), 1), batch_rows):
        yield runtime.run(images_NCHW[start : start + batch_rows])
