"""Texts and token ids from files, in the form that a model of tokens takes: int64 (N, T)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.errors import BadRecord, DataError

if TYPE_CHECKING:
    import numpy as np

    from foundry_ray.data.tokenizer import Tokenizer

_COLUMN = "text"
_WANTED = "name a .txt file (one text a line), a .csv or .jsonl with a column `text`, or a .npy file of ids."


def read_rows(source: Path, *, length: int, tokenizer: Tokenizer | None, vocab_size: int | None = None) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the rows, and their ids.

    Args:
        source: Texts, or ids in a .npy file.
        length: Tokens of a row, as the model takes them.
        tokenizer: The one that came with the model; None where its data set were ids already.
        vocab_size: How many ids it knows: runtimes differ in what they make of others. None where nobody says.

    Raises:
        DataError: `source` does not exist, or holds texts that nobody can make ids of.
        BadRecord: A text is empty, or ids have another shape or are none of the vocabulary's.
    """
    if not source.exists():
        raise DataError(f"{source} does not exist.", hint=_WANTED)
    if source.suffix == ".npy":
        ids_NT = _ids(source, length)
        _check_ids(ids_NT, vocab_size, source)
        return tuple(f"{source.name}[{row}]" for row in range(len(ids_NT))), ids_NT
    if tokenizer is None:
        raise DataError(f"{source} holds texts, but the model came without a tokenizer: its data set were token ids.", hint="give it a .npy file.")
    texts = _texts(source)
    return tuple(f"{source.name}[{row}]" for row in range(len(texts))), tokenizer.encode(texts).astype("int64")


def _texts(path: Path) -> list[str]:
    from foundry_ray.data.text import SUFFIXES, read_records

    if path.suffix in SUFFIXES:
        texts = [str(record.get(_COLUMN) or "") for record in read_records(path)]
    elif path.suffix == ".txt":
        texts = _lines(path)
    else:
        raise DataError(f"{path} is no file of texts.", hint=_WANTED)
    blank = next((row for row, text in enumerate(texts) if not text.strip()), None)
    if blank is not None or not texts:
        got = "has no rows" if blank is None else f"row {blank} has no {_COLUMN}"
        raise BadRecord(f"{path}: {got}, wanted a text.", hint=_WANTED, source=str(path), row=blank)
    return texts


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise BadRecord(f"{path} is not UTF-8: byte {error.start}.", hint="convert it: `iconv -t UTF-8`.", source=str(path)) from error


def _ids(path: Path, length: int) -> np.ndarray:
    import numpy as np

    try:
        ids_NT: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadRecord(f"{path} is no readable .npy file: {error}.", hint="write it with numpy.save.", source=str(path)) from error
    if ids_NT.dtype.kind not in "iu" or ids_NT.ndim != 2 or ids_NT.shape[1] != length or len(ids_NT) == 0:
        wanted = f"integers of shape (N, {length}) with N >= 1"
        raise BadRecord(f"{path} is {ids_NT.dtype} of shape {ids_NT.shape}, wanted {wanted}.", hint="store token ids.", source=str(path))
    return ids_NT.astype("int64")


def _check_ids(ids_NT: np.ndarray, vocab_size: int | None, path: Path) -> None:
    bad_NT = (ids_NT < 0) if vocab_size is None else (ids_NT < 0) | (ids_NT >= vocab_size)
    if bad_NT.any():
        row, place = divmod(int(bad_NT.argmax()), ids_NT.shape[1])
        wanted = "0 or more" if vocab_size is None else f"0..{vocab_size - 1}"
        message = f"{path}: the id [{row}, {place}] is {ids_NT[row, place]}, wanted {wanted}."
        raise BadRecord(message, hint="make ids with the tokenizer that the model was trained with.", source=str(path), row=row)
