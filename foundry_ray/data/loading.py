"""Reading the splits of a prepared data set: train and val freely, test only for a frozen candidate, and never unnoticed.

Each opening of test is an object `test_openings/<fingerprint>/<candidate>/<number>.json`, created once, before a row is read.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_ray.errors import ArtifactCorrupt, Conflict, DataError
from foundry_ray.protocols import ArtifactStore, Clock
from foundry_ray.types import FORMAT_VERSION, DatasetRef, Json

if TYPE_CHECKING:
    import numpy as np

_OPEN = ("train", "val")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split: raw pixels as uint8 of shape (N, C, H, W) and labels as int64 of shape (N,); or token ids, and labels of one row's or one token's
    (-100: of none), as int64 of shape (N, T)."""

    inputs_N: np.ndarray
    labels_N: np.ndarray

    @property
    def images_NCHW(self) -> np.ndarray:  # noqa: N802  a shape suffix
        """The inputs, for those who work on images alone."""
        assert self.inputs_N.ndim == 4, "a split of tokens was refused before"
        return self.inputs_N


def load_split(ref: DatasetRef, name: str, *, store: ArtifactStore) -> Split:
    """Read train or val.

    Raises:
        DataError: `name` is "test", which opens only through `open_test`, or no split at all.
        ArtifactCorrupt: The stored bytes are not the published ones.
    """
    if name == "test":
        message = "load_split got 'test', wanted train or val: val chooses, test judges."
        raise DataError(message, hint="`open_test` with the hash of the frozen model.")
    if name not in _OPEN:
        raise DataError(f"there is no split {name!r}, wanted one of {', '.join(_OPEN)}.", hint="train or val.")
    return _read(ref, name, store)


def open_test(ref: DatasetRef, *, store: ArtifactStore, frozen_sha256: str, clock: Clock) -> Split:
    """Read test for a candidate that can no longer change, and log that it was read.

    Raises:
        DataError: `frozen_sha256` is no sha256 of an artifact.
    """
    log_opening(ref, store=store, frozen_sha256=frozen_sha256, clock=clock)
    return _read(ref, "test", store)


def log_opening(ref: DatasetRef, *, store: ArtifactStore, frozen_sha256: str, clock: Clock) -> None:
    """Write down that test is read for a candidate: `open_test` does, and whoever works on a copy tells the store that the copy is of.

    Raises:
        DataError: `frozen_sha256` is no sha256 of an artifact.
    """
    from foundry_ray.artifacts.manifests import put_json

    if not re.fullmatch(r"[0-9a-f]{64}", frozen_sha256):
        message = f"test opens for a frozen model, but got {frozen_sha256!r}, wanted the sha256 of its artifact."
        raise DataError(message, hint="publish the model first.")
    prefix = f"{_log_of(ref)}{frozen_sha256}/"
    number = sum(1 for _ in store.list(prefix))
    while True:
        opening: Json = {"format_version": FORMAT_VERSION, "candidate": frozen_sha256, "opened_at_s": clock.now_s()}
        try:
            put_json(store, f"{prefix}{number:06d}.json", opening, if_absent=True)
        except Conflict:
            number += 1
        else:
            return


def num_test_openings(ref: DatasetRef, store: ArtifactStore) -> int:
    """How often the test split of this fingerprint was read, by any candidate of any run."""
    return sum(1 for _ in store.list(_log_of(ref)))


def _log_of(ref: DatasetRef) -> str:
    return f"test_openings/{ref.fingerprint}/"


def _read(ref: DatasetRef, name: str, store: ArtifactStore) -> Split:
    schema, num_rows = ref.schema, ref.splits[name].num_rows
    inputs_N = _read_array(ref, f"{name}_{schema.kind}.npy", store)
    inputs_N = inputs_N.astype("int64") if schema.kind == "tokens" else inputs_N
    labels_N = _read_array(ref, f"{name}_labels.npy", store).astype("int64", copy=False) if schema.has_labels else inputs_N
    wanted = ((num_rows, *schema.shape), (num_rows, *schema.label_shape))
    if (inputs_N.shape, labels_N.shape) != wanted:
        message = f"{ref.key}: the {name} split has {inputs_N.shape} {schema.kind} and {labels_N.shape} labels, wanted {wanted[0]} and {wanted[1]}."
        raise ArtifactCorrupt(message, hint="prepare the data set again: `--fresh data`.", key=ref.key)
    return Split(inputs_N=inputs_N, labels_N=labels_N)


def _read_array(ref: DatasetRef, file: str, store: ArtifactStore) -> np.ndarray:
    import numpy as np

    from foundry_ray.artifacts.manifests import read_file

    data = read_file(store, ref.key, file)
    try:
        array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        message = f"{ref.key}: {file} is no numpy array: {error}."
        raise ArtifactCorrupt(message, hint="prepare the data set again: `--fresh data`.", key=ref.key) from error
    return array
