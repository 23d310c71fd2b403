"""From raw records to a prepared data set in the store: load, clean, split, measure, fingerprint, publish.

The split is made once; whoever trains, searches or judges later reads the same rows. Statistics come from train only.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from foundry_ray.config import DataConfig, Settings, TextConfig
from foundry_ray.data.sources import open_source
from foundry_ray.data.splitting import NAMES, split_counts, split_seed, stratified
from foundry_ray.data.tokenizer import FILE, Tokenizer, tokenised
from foundry_ray.protocols import ArtifactStore, RawData, Reporter
from foundry_ray.types import DatasetRef, Json, Preprocessing, Schema, SplitInfo, canonical_sha256, to_json

if TYPE_CHECKING:
    import numpy as np


def prepare(config: DataConfig, *, task: str, seed: int, store: ArtifactStore, settings: Settings, reporter: Reporter) -> DatasetRef:
    """Prepare and publish a data set. Equal data, configuration and seed give the same fingerprint and the same artifact.

    Raises:
        DataError: The source is absent; the hint is the command that fetches it.
        BadRecord, FingerprintMismatch: The bytes are not what they should be.
        OutOfRange: The split asks for more rows than there are.
    """
    return prepare_raw(open_source(config, settings).load(), config, task=task, seed=seed, store=store, reporter=reporter)


def prepare_raw(raw: RawData, config: DataConfig, *, task: str, seed: int, store: ArtifactStore, reporter: Reporter) -> DatasetRef:
    """As `prepare`, for records that are loaded already."""
    notes = list(raw.notes)
    rows_N, num_dropped = _clean(raw, config.clean.duplicates, notes)
    splits = _split(raw, rows_N, num_dropped, config, seed, notes)
    tokenizer = None
    if raw.inputs_N.dtype == object:
        raw, tokenizer = tokenised(replace(raw, notes=()), splits["train"], config.text or TextConfig())
        notes.extend(raw.notes)
    preprocessing = _statistics(raw.inputs_N[splits["train"]], notes) if raw.schema.kind == "images" else None
    for note in notes:
        reporter.warn(f"data {config.source}: {note}")
    return publish_splits(raw, splits, preprocessing, tokenizer, task=task, notes=tuple(notes), store=store)


def _clean(raw: RawData, duplicates: str, notes: list[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Rows to keep, and how many copies were dropped before and after `test_from`."""
    import numpy as np

    num_rows = len(raw.inputs_N)
    if duplicates == "keep":
        return np.arange(num_rows), {"rest": 0, "test": 0}
    boundary = num_rows if raw.test_from is None else raw.test_from
    first: dict[bytes, int] = {}
    dropped: list[int] = []
    num_contradicting = 0
    # official test rows first: of a training row that copies one, the training row goes
    for row in itertools.chain(range(boundary, num_rows), range(boundary)):
        original = first.setdefault(hashlib.blake2b(_bytes_of(raw.inputs_N[row]), digest_size=16).digest(), row)
        if original != row:
            dropped.append(row)
            num_contradicting += int(raw.labels_N is not None and not np.array_equal(raw.labels_N[row], raw.labels_N[original]))
    if dropped:
        notes.append(f"dropped {len(dropped)} of {num_rows} rows as exact duplicates, {num_contradicting} of them with another label")
    num_test = sum(row >= boundary for row in dropped)
    return np.setdiff1d(np.arange(num_rows), dropped), {"rest": len(dropped) - num_test, "test": num_test}


def _bytes_of(row: np.ndarray | str) -> bytes:
    return row.encode() if isinstance(row, str) else row.tobytes()


def _split(raw: RawData, rows_N: np.ndarray, num_dropped: dict[str, int], config: DataConfig, seed: int, notes: list[str]) -> dict[str, np.ndarray]:
    num_test_rows = None if raw.test_from is None else int((rows_N >= raw.test_from).sum())
    counts, lowered = split_counts(config.split, num_rows=len(rows_N), num_test_rows=num_test_rows, num_dropped=num_dropped)
    notes.extend(lowered)
    classes_N = _classes(raw)
    if raw.test_from is None:
        splits = stratified(classes_N, rows_N, counts, seed=split_seed(seed))
    else:
        test = stratified(classes_N, rows_N[rows_N >= raw.test_from], {"test": counts.pop("test")}, seed=split_seed(seed))
        splits = {**stratified(classes_N, rows_N[rows_N < raw.test_from], counts, seed=split_seed(seed)), **test}
    for name in NAMES:
        present = set(classes_N[splits[name]].tolist())
        missing = [label for number, label in enumerate(raw.schema.classes) if number not in present]
        if missing:
            notes.append(f"the {name} split has no row of {len(missing)} classes: {', '.join(missing[:5])}")
    return splits


def _classes(raw: RawData) -> np.ndarray:
    """The class of each row; one for all where rows have none."""
    import numpy as np

    return raw.labels_N if raw.labels_N is not None and raw.labels_N.ndim == 1 else np.zeros(len(raw.inputs_N), dtype=np.int64)


def _statistics(images_NCHW: np.ndarray, notes: list[str]) -> Preprocessing:
    """Mean and standard deviation per channel in raw pixels, from exact integer sums, so that row order does not matter."""
    import numpy as np

    num_values = images_NCHW[:, 0].size
    counts_CV = [np.bincount(images_NCHW[:, channel].ravel(), minlength=256) for channel in range(images_NCHW.shape[1])]
    values_V = np.arange(256, dtype=np.int64)
    mean_C = [int(counts_V @ values_V) / num_values for counts_V in counts_CV]
    variance_C = [int(counts_V @ values_V**2) / num_values - mean**2 for counts_V, mean in zip(counts_CV, mean_C, strict=True)]
    if min(variance_C) <= 0:
        notes.append("a channel of the training images is constant; its standard deviation counts as 1")
    std_C = [float(np.sqrt(variance)) if variance > 0 else 1.0 for variance in variance_C]
    return Preprocessing(mean=tuple(mean_C), std=tuple(std_C))


def publish_splits(
    raw: RawData,
    splits: dict[str, np.ndarray],
    preprocessing: Preprocessing | None = None,
    tokenizer: Tokenizer | None = None,
    *,
    task: str,
    notes: tuple[str, ...] = (),
    store: ArtifactStore,
) -> DatasetRef:
    """Store the rows of each split (numbers of rows of the raw data, by name) as a data set that `loading` reads."""
    from foundry_ray.artifacts.manifests import publish

    files: dict[str, bytes] = {} if tokenizer is None else {FILE: tokenizer.document.encode()}
    infos: dict[str, SplitInfo] = {}
    for name, rows_N in splits.items():
        arrays = {f"{name}_{raw.schema.kind}.npy": _npy(raw.inputs_N[rows_N])}
        if raw.labels_N is not None:
            arrays[f"{name}_labels.npy"] = _npy(raw.labels_N[rows_N])
        files |= arrays
        infos[name] = SplitInfo(num_rows=len(rows_N), num_bytes=sum(len(array) for array in arrays.values()))
    fingerprint = _fingerprint(raw.schema, files, splits)
    meta: Json = {
        "fingerprint": fingerprint,
        "source_sha256": raw.sha256,
        "schema": to_json(raw.schema),
        "preprocessing": to_json(preprocessing),
    }
    # no time of creation: preparing the same data again gives the same artifact, and the run's record says when
    artifact = publish(store, kind="dataset", files=files, meta=meta, created_at="")
    return DatasetRef(
        key=artifact.key,
        fingerprint=fingerprint,
        task=task,
        splits=infos,
        schema=raw.schema,
        preprocessing=preprocessing,
        notes=notes,
        tokenizer=tokenizer.sha256 if tokenizer else "",
    )


def _fingerprint(schema: Schema, files: dict[str, bytes], splits: dict[str, np.ndarray]) -> str:
    content: Json = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    indices: Json = {name: hashlib.sha256(rows_N.astype("<i8").tobytes()).hexdigest() for name, rows_N in splits.items()}
    return canonical_sha256({"content": content, "indices": indices, "schema": to_json(schema)})


def _npy(array: np.ndarray) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
