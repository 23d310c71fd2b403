"""Texts with a class each, out of a `.csv` (with a header) or a `.jsonl` (an object a line), as UTF-8.

Decides: what counts as such a file, strictly: a missing column, an empty text or bytes that are no UTF-8 never pass unnoticed.
Leaves to others: which rows are for training, and what makes token ids of a text (`tokenizer`), which is learnt from those rows alone.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.config import Settings, TextConfig
from foundry_ray.data import registry
from foundry_ray.data.mails import parse_mails
from foundry_ray.data.tokenizer import planned_schema
from foundry_ray.errors import BadRecord, DataError
from foundry_ray.protocols import RawData
from foundry_ray.types import TokenSchema, canonical_sha256

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".csv", ".jsonl")


@dataclass(frozen=True, slots=True)
class TextSource:
    """A table of texts and classes. Classes are numbered in the order of their names."""

    path: Path
    text: TextConfig
    drop_corrupt: bool = False

    def locate(self) -> Path:
        """The file. Raises DataError if it is not there."""
        if not self.path.is_file():
            raise DataError(f"{self.path} is no file.", hint="`data.source` names a .csv or .jsonl file, relative to the working folder.")
        return self.path

    def sha256(self) -> str:
        """Of the file's bytes, and of a tokenizer that is read from a file."""
        return with_tokenizer(hashlib.sha256(self.locate().read_bytes()).hexdigest(), self.text)

    def schema(self) -> TokenSchema:
        """As far as it is known before a tokenizer is trained: the vocabulary may become smaller. Raises BadRecord as `load`."""
        schema = self.load().schema
        assert isinstance(schema, TokenSchema)
        return schema

    def load(self) -> RawData:
        """Read everything. Raises BadRecord with the row and the column."""
        import numpy as np

        notes: list[str] = []
        rows = list(self._rows(notes))
        if not rows:
            raise DataError(f"{self.path} has no rows, wanted texts with a class each.", hint="check `data.source`.")
        classes = tuple(sorted({label for _, label in rows}))
        labels_N = np.array([classes.index(label) for _, label in rows], dtype=np.int64)
        inputs_N = as_array([text for text, _ in rows])
        return RawData(inputs_N=inputs_N, labels_N=labels_N, schema=planned_schema(self.text, classes), sha256=self.sha256(), notes=tuple(notes))

    def _rows(self, notes: list[str]) -> Iterator[tuple[str, str]]:
        for row, record in enumerate(read_records(self.locate())):
            try:
                text = self._cell(record, self.text.text_column, row)
                label = self._cell(record, self.text.label_column, row)
            except BadRecord as error:
                if not self.drop_corrupt:
                    raise
                notes.append(f"dropped: {error.message}")
                continue
            yield text, label

    def _cell(self, record: dict[str, object], column: str, row: int) -> str:
        hint = "correct the row, or set `data.clean.corrupt: drop`."
        if column not in record:
            known = ", ".join(record) or "none"
            message = f"{self.path}: row {row} has no column {column!r}; it has {known}."
            raise BadRecord(message, hint="set `data.text.text_column` and `.label_column`.", source=str(self.path), row=row, column=column)
        value = record[column]
        text = str(value) if isinstance(value, (str, int)) else ""
        if not text.strip():
            got = "an empty" if isinstance(value, str) else "no" if value is None else f"a {type(value).__name__} as"
            message = f"{self.path}: row {row} has {got} {column}, wanted a text."
            raise BadRecord(message, hint=hint, source=str(self.path), row=row, column=column)
        return text


@dataclass(frozen=True, slots=True)
class RegisteredTextSource:
    """A data set of texts out of the registry. Its bytes are verified when they are read."""

    item: registry.Registered
    settings: Settings
    text: TextConfig

    def locate(self) -> Path:
        """The folder of its files. Raises DataError with the command that fetches it."""
        return registry.locate(self.item, self.settings)

    def sha256(self) -> str:
        """A hash of the promised hashes, and of a tokenizer that is read from a file."""
        return with_tokenizer(canonical_sha256(dict(self.item.files)), self.text)

    def schema(self) -> TokenSchema:
        """As the registry has it: nothing is read."""
        return planned_schema(self.text, self.item.classes)

    def load(self) -> RawData:
        """Read everything. Raises FingerprintMismatch or BadRecord."""
        import numpy as np

        ((file, sha256),) = self.item.files.items()
        path = self.locate() / file
        texts, labels, test_from = parse_mails(registry.read_verified(path, sha256, name=self.item.name), source=str(path))
        labels_N = np.array(labels, dtype=np.int64)
        return RawData(inputs_N=as_array(texts), labels_N=labels_N, schema=self.schema(), sha256=self.sha256(), test_from=test_from)


def read_records(path: Path) -> Iterator[dict[str, object]]:
    """The rows of a .csv or .jsonl file by column. Raises BadRecord with the row."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        message = f"{path} is not UTF-8: byte {error.start} (line {line}) is 0x{error.object[error.start]:02x}."
        raise BadRecord(message, hint="convert it: `iconv -f LATIN1 -t UTF-8`, with the encoding that it has.", source=str(path), row=line) from error
    return _csv_rows(content, path) if path.suffix == ".csv" else _json_rows(content, path)


def as_array(texts: list[str]) -> np.ndarray:
    """Texts as an array of objects, shape (N,)."""
    import numpy as np

    texts_N = np.empty(len(texts), dtype=object)
    texts_N[:] = texts
    return texts_N


def with_tokenizer(sha256: str, text: TextConfig) -> str:
    """What identifies texts and whatever makes ids of them; a tokenizer that is trained is a function of the texts and of the configuration."""
    from foundry_ray.data.tokenizer import file_of

    path = file_of(text)
    return sha256 if path is None else canonical_sha256([sha256, hashlib.sha256(path.read_bytes()).hexdigest()])


def _csv_rows(content: str, path: Path) -> Iterator[dict[str, object]]:
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    row, limit = 0, csv.field_size_limit(max(len(content), csv.field_size_limit()))  # a text may be as long as the file
    try:
        _check_names(reader.fieldnames or (), path)
        for row, record in enumerate(reader):
            if None in record or None in record.values():
                message = f"{path}: row {row} has another number of columns than the header ({len(reader.fieldnames or ())})."
                raise BadRecord(message, hint="quote texts that hold commas.", source=str(path), row=row)
            yield dict(record)
    except csv.Error as error:
        message = f"{path} is no table after row {row}: {error}."
        raise BadRecord(message, hint="write it with Python's csv module, or as .jsonl.", source=str(path), row=row) from error
    finally:
        csv.field_size_limit(limit)


def _check_names(names: Sequence[str], path: Path) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        message = f"{path} has {names.count(twice)} columns {twice!r}, wanted names that differ."
        raise BadRecord(message, hint="rename one of them.", source=str(path), column=twice)


def _json_rows(content: str, path: Path) -> Iterator[dict[str, object]]:
    for row, line in enumerate(line for line in content.split("\n") if line.strip()):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"{path}: row {row} is no JSON: {error}.", hint="an object a line.", source=str(path), row=row) from error
        if not isinstance(record, dict):
            raise BadRecord(f"{path}: row {row} is a {type(record).__name__}, wanted an object.", hint="an object a line.", source=str(path), row=row)
        _check_characters(record, path, row)
        yield record


def _check_characters(record: dict[str, object], path: Path, row: int) -> None:
    """JSON can name halves of characters, of which no bytes can be made."""
    for column, value in record.items():
        try:
            str(value).encode()
        except UnicodeEncodeError as error:
            message = f"{path}: row {row} has half of a surrogate pair in {column} (place {error.start}), wanted whole characters."
            raise BadRecord(message, hint="write texts as UTF-8, or with both escapes.", source=str(path), row=row, column=column) from error
