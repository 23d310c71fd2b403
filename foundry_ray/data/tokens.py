"""A `.npz` file of token ids, in blocks of equal length: what a tokenizer made of a text.

    np.savez("text.npz", inputs=ids_NT, vocab_size=tokenizer.vocab_size)

`labels` may be added: a label per token (N, T), -100 where there is none; or a class per row (N,). Without them each block is its own label.
Decides: what counts as such a file, strictly. Leaves to others: tokenizing.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.errors import BadRecord, DataError
from foundry_ray.protocols import RawData
from foundry_ray.types import TokenSchema

if TYPE_CHECKING:
    import numpy as np

IGNORED = -100
"""The label of a token that is not learnt."""
_HOW = "write it with np.savez(path, inputs=ids, vocab_size=...): integers of shape (blocks, tokens), and the size of the vocabulary."


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Blocks of token ids in one file."""

    path: Path

    def locate(self) -> Path:
        """The file. Raises DataError if it is not there."""
        if not self.path.is_file():
            raise DataError(f"{self.path} is no file.", hint="`data.source` names a .npz file of token ids, relative to the working folder.")
        return self.path

    def sha256(self) -> str:
        """Of the file's bytes."""
        with self.locate().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def schema(self) -> TokenSchema:
        """Length, vocabulary and classes. Raises BadRecord as `load`."""
        schema = self.load().schema
        assert isinstance(schema, TokenSchema)
        return schema

    def load(self) -> RawData:
        """Read everything. Raises BadRecord with the row and the place of the first id that is none."""
        arrays = self._arrays()
        inputs_NT = self._integers(arrays, "inputs")
        if inputs_NT.ndim != 2 or inputs_NT.shape[0] == 0 or inputs_NT.shape[1] < 2:
            raise self._bad(f"inputs of shape {inputs_NT.shape}, wanted (blocks, tokens), with 2 tokens or more", column="inputs")
        vocab_size = int(self._integers(arrays, "vocab_size").reshape(-1)[0]) if arrays["vocab_size"].size == 1 else 0
        if vocab_size < 2:
            raise self._bad(f"vocab_size {arrays['vocab_size']}, wanted one number from 2 on", column="vocab_size")
        self._check_range(inputs_NT, "inputs", vocab_size)
        labels_N, classes = self._labels(arrays, inputs_NT.shape, vocab_size)
        schema = TokenSchema(length=inputs_NT.shape[1], vocab_size=vocab_size, has_labels=labels_N is not None, classes=classes)
        return RawData(inputs_N=inputs_NT.astype("int32"), labels_N=labels_N, schema=schema, sha256=self.sha256())

    def _labels(self, arrays: dict[str, np.ndarray], shape: tuple[int, ...], vocab_size: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
        if "labels" not in arrays:
            return None, ()
        labels_N = self._integers(arrays, "labels")
        if labels_N.shape == shape[:1]:
            num_classes = int(labels_N.max()) + 1
            self._check_range(labels_N[:, None], "labels", num_classes)
            return labels_N.astype("int64"), tuple(str(label) for label in range(num_classes))
        if labels_N.shape != shape:
            raise self._bad(f"labels of shape {labels_N.shape}, wanted {shape[:1]} or {shape}", column="labels")
        self._check_range(labels_N, "labels", vocab_size, others=(IGNORED,))
        silent_N = (labels_N[:, 1:] == IGNORED).all(axis=1)
        if silent_N.any():
            row = int(silent_N.argmax())
            raise self._bad(f"no label after the first token of row {row}, wanted one that is not {IGNORED}", row=row, column="labels")
        return labels_N.astype("int32"), ()

    def _arrays(self) -> dict[str, np.ndarray]:
        import numpy as np

        # opened here: numpy leaves a file open that it cannot read
        with self._readable(), self.locate().open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("inputs", "labels", "vocab_size") if name in file}
        missing = [name for name in ("inputs", "vocab_size") if name not in arrays]
        if missing:
            raise self._bad(f"no array {missing[0]!r}, wanted inputs and vocab_size", column=missing[0])
        return arrays

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            message = f"{self.path} cannot be read as a .npz file of plain arrays: {error}."
            raise BadRecord(message, hint=_HOW, source=str(self.path)) from error

    def _integers(self, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
        array = arrays[name]
        if array.dtype.kind not in "iu":
            raise self._bad(f"{name} of dtype {array.dtype}, wanted integers", column=name)
        return array

    def _check_range(self, ids_NT: np.ndarray, name: str, size: int, others: tuple[int, ...] = ()) -> None:
        import numpy as np

        bad_NT = (ids_NT < 0) | (ids_NT >= size)
        for other in others:
            bad_NT &= ids_NT != other
        if bad_NT.any():
            row, place = (int(number) for number in np.unravel_index(int(bad_NT.argmax()), bad_NT.shape))
            allowed = "".join(f" or {other}" for other in others)
            raise self._bad(f"{name}[{row}, {place}] = {ids_NT[row, place]}, wanted 0..{size - 1}{allowed}", row=row, column=name)

    def _bad(self, got: str, *, row: int | None = None, column: str) -> BadRecord:
        return BadRecord(f"{self.path} has {got}.", hint=_HOW, source=str(self.path), row=row, column=column)
