"""The bytes of data files as arrays, strictly: a file that is cut short or holds a value outside its domain never passes.

Each function raises BadRecord that names the source, the row (from 0) and the column where there is one.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import TYPE_CHECKING

from foundry_ray.errors import BadRecord

if TYPE_CHECKING:
    import numpy as np

_UBYTE = 0x08


def gunzip(data: bytes, *, source: str) -> bytes:
    """The content of a gzip file."""
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise _bad(f"{source} is not a whole gzip file: {error} ({len(data)} bytes).", source) from error


def parse_csv(text: bytes, *, num_pixels: int, max_value: int, num_classes: int, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `num_pixels` integers in 0..max_value and a label: uint8 of shape (N, num_pixels), and int64 of shape (N,)."""
    import numpy as np

    lines = text.splitlines()
    for row, line in enumerate(lines):
        if line.count(b",") != num_pixels:
            message = f"{source}: row {row} has {line.count(b',') + 1} columns, wanted {num_pixels + 1}."
            raise _bad(message, source, row=row)
    if not lines:
        raise _bad(f"{source} has no rows, wanted {num_pixels + 1} columns in each.", source)
    try:
        table = np.loadtxt(lines, delimiter=",", dtype=np.float64, ndmin=2, comments=None)
    except ValueError as error:
        raise _not_a_number(lines, source) from error
    _check_pixels(table[:, :num_pixels], max_value, source)
    labels_N = table[:, num_pixels]
    _check_labels(labels_N, num_classes, source)
    return table[:, :num_pixels].astype(np.uint8), labels_N.astype(np.int64)


def parse_idx(data: bytes, *, num_dims: int, source: str) -> np.ndarray:
    """An idx file of unsigned bytes with `num_dims` dimensions (the format of MNIST)."""
    import numpy as np

    header = 4 + 4 * num_dims
    if len(data) < header:
        raise _bad(f"{source} has {len(data)} bytes, wanted a header of {header}.", source)
    zeros, kind, dims, *shape = struct.unpack(f">HBB{num_dims}I", data[:header])
    if (zeros, kind, dims) != (0, _UBYTE, num_dims):
        got = f"magic {data[:4].hex()}"
        raise _bad(f"{source} has {got}, wanted {bytes((0, 0, _UBYTE, num_dims)).hex()} (unsigned bytes, {num_dims} dimensions).", source)
    wanted, got_bytes = int(np.prod(shape, dtype=np.int64)), len(data) - header
    if got_bytes != wanted:
        row = got_bytes // max(1, wanted // max(1, shape[0]))
        raise _bad(f"{source} has {got_bytes} bytes of data, but its header says {wanted} ({shape[0]} rows).", source, row=row)
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def check_labels(labels_N: np.ndarray, *, num_classes: int, source: str) -> np.ndarray:
    """The labels as int64, each in 0..num_classes-1."""
    import numpy as np

    _check_labels(labels_N, num_classes, source)
    return labels_N.astype(np.int64)


def _check_labels(labels_N: np.ndarray, num_classes: int, source: str) -> None:
    import numpy as np

    bad_N = (labels_N < 0) | (labels_N >= num_classes) | (labels_N != np.floor(labels_N))
    if bad_N.any():
        row = int(bad_N.argmax())
        message = f"{source}: row {row} has the label {labels_N[row]:g}, wanted a class number in 0..{num_classes - 1}."
        raise _bad(message, source, row=row, column="label")


def _check_pixels(pixels_ND: np.ndarray, max_value: int, source: str) -> None:
    import numpy as np

    bad_ND = ~((pixels_ND >= 0) & (pixels_ND <= max_value) & (pixels_ND == np.floor(pixels_ND)))
    if bad_ND.any():
        row, column = (int(place) for place in np.unravel_index(int(bad_ND.argmax()), bad_ND.shape))
        message = f"{source}: row {row}, column {column} is {pixels_ND[row, column]:g}, wanted an integer in 0..{max_value}."
        raise _bad(message, source, row=row, column=column)


def _not_a_number(lines: list[bytes], source: str) -> BadRecord:
    for row, line in enumerate(lines):
        for column, cell in enumerate(line.split(b",")):
            try:
                float(cell)
            except ValueError:
                text = cell[:20].decode("ascii", "replace")
                return _bad(f"{source}: row {row}, column {column} is {text!r}, wanted a number.", source, row=row, column=column)
    return _bad(f"{source} is no table of numbers.", source)


def _bad(message: str, source: str, *, row: int | None = None, column: int | str | None = None) -> BadRecord:
    hint = "fetch the data set again, or correct the file."
    return BadRecord(message, hint=hint, source=source, row=row, column=column)
