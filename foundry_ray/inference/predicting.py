"""Batch prediction with a stored model, without a server: arrays, or files as a user names them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.errors import ArtifactCorrupt
from foundry_ray.inference.reading import read_images
from foundry_ray.inference.reading_text import read_rows
from foundry_ray.inference.rows import PIXELS
from foundry_ray.inference.runtimes import Runtime
from foundry_ray.inference.shipping import open_shipped
from foundry_ray.protocols import ArtifactStore
from foundry_ray.types import Json, ModelArtifact

if TYPE_CHECKING:
    import numpy as np

    from foundry_ray.data.tokenizer import Tokenizer

SERVED_FILE = "model.onnx"
_BATCH_ROWS = 64


def load_served(store: ArtifactStore, model: ModelArtifact) -> bytes:
    """The bytes of the file that is served, verified. Raises ArtifactNotFound or ArtifactCorrupt."""
    from foundry_ray.artifacts import manifests

    return manifests.read_file(store, model.artifact.key, SERVED_FILE)


def predict(store: ArtifactStore, model: ModelArtifact, inputs_N: np.ndarray, *, threads: int | None = None) -> np.ndarray:
    """Logits float32 (N, classes) of raw uint8 images (N, C, H, W), or of token ids, in the runtime that the model ships with.

    Args:
        threads: Instead of those that it ships with.

    Raises:
        BadRecord: Another shape or dtype.
        ConfigError: This machine cannot run that runtime.
    """
    return run_batched(_opened(store, model, threads), inputs_N)


def run_batched(runtime: Runtime, inputs_N: np.ndarray, *, batch_rows: int = _BATCH_ROWS) -> np.ndarray:
    """Run any number of rows, at most `batch_rows` at a time, so that memory stays bounded."""
    import numpy as np

    return np.concatenate(list(_batches(runtime, inputs_N, batch_rows)))


def _batches(runtime: Runtime, inputs_N: np.ndarray, batch_rows: int) -> Iterator[np.ndarray]:
    for start in range(0, max(len(inputs_N), 1), batch_rows):
        yield runtime.run(inputs_N[start : start + batch_rows])


def _opened(store: ArtifactStore, model: ModelArtifact, threads: int | None) -> Runtime:
    from foundry_ray.artifacts import manifests

    return open_shipped(load_served(store, model), manifests.load_manifest(store, model.artifact.key).meta, threads=threads)


def predict_files(store: ArtifactStore, model: ModelArtifact, source: Path, *, threads: int | None = None) -> Iterator[Json]:
    """One answer a row of `source`: its name, and the task's prediction.

    Args:
        store: Where the model is.
        model: A student's artifact, whose signature names its task and its classes.
        source: An image, a folder of images, or a .npy file of uint8 images (N, C, H, W) or (N, H, W). For a model of texts: a .txt file (a text a
            line), a .csv or .jsonl with a column `text`, or a .npy file of ids (N, T).
        threads: Instead of those that it ships with.

    Raises:
        DataError: There is nothing to read, or texts and no tokenizer.
        ConfigError: This machine cannot run the runtime that the model ships with.
        BadRecord: A file is unreadable or has another size than the model takes.
        ArtifactCorrupt: The artifact has no signature.
    """
    from foundry_ray import tasks

    task_name, classes = _signature(store, model)
    runtime = _opened(store, model, threads)
    names, rows_N = read_images(source, runtime.input_shape) if runtime.input_dtype == PIXELS else _read_texts(store, model, runtime, source)
    task = tasks.get(task_name)
    for name, logits_C in zip(names, run_batched(runtime, rows_N), strict=True):
        answer = task.prediction(logits_C, classes)
        yield {"input": name, **answer} if isinstance(answer, dict) else {"input": name, "prediction": answer}


def _read_texts(store: ArtifactStore, model: ModelArtifact, runtime: Runtime, source: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the rows, and their ids, by the tokenizer that lies beside the model."""
    from foundry_ray.artifacts import manifests
    from foundry_ray.data.tokenizer import FILE, Tokenizer

    key = model.artifact.key
    manifest = manifests.load_manifest(store, key)
    tokenizer = Tokenizer(manifests.read_file(store, key, FILE).decode()) if FILE in manifest.files else None
    return read_rows(source, length=runtime.input_shape[0], tokenizer=tokenizer, vocab_size=_vocab_size(manifest.meta, tokenizer))


def _vocab_size(meta: Json, tokenizer: Tokenizer | None) -> int | None:
    """Of the ids that a model takes; None where neither its signature nor a tokenizer says it."""
    taken = meta.get("input") if isinstance(meta, dict) else None
    size = taken.get("vocab_size") if isinstance(taken, dict) else None
    return size if isinstance(size, int) else tokenizer.vocab_size if tokenizer else None


def _signature(store: ArtifactStore, model: ModelArtifact) -> tuple[str, tuple[str, ...]]:
    from foundry_ray.artifacts import manifests

    key = model.artifact.key
    meta = manifests.load_manifest(store, key).meta
    classes = meta.get("classes") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(classes, list):
        raise ArtifactCorrupt(f"{key} has no signature, wanted its task and classes.", hint="make the model again: `--fresh student`.", key=key)
    return str(meta["task"]), tuple(str(name) for name in classes)
