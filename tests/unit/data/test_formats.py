"""Data files, whole and broken."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from foundry_ray.data import formats
from foundry_ray.errors import BadRecord

TABLE = b"0,1,2,0\n253,254,255,1\n"


def parse(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    return formats.parse_csv(text, num_pixels=3, max_value=255, num_classes=2, source="t.csv")


def test_a_table_becomes_pixels_and_labels() -> None:
    pixels_ND, labels_N = parse(TABLE)
    assert pixels_ND.dtype == np.uint8
    assert pixels_ND.tolist() == [[0, 1, 2], [253, 254, 255]]
    assert labels_N.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "message", "row", "column"),
    [
        (b"0,1,2,0\n253,254", "row 1 has 2 columns, wanted 4", 1, None),
        (b"0,1,2,0\n1,2,3,2\n", "row 1 has the label 2, wanted a class number in 0..1", 1, "label"),
        (b"0,1,2,-1\n", "row 0 has the label -1", 0, "label"),
        (b"0,1,2,0\n1,256,3,1\n", "row 1, column 1 is 256, wanted an integer in 0..255", 1, 1),
        (b"0,1.5,2,0\n", "row 0, column 1 is 1.5, wanted an integer", 0, 1),
        (b"0,nan,2,0\n", "row 0, column 1 is nan", 0, 1),
        (b"0,1,2,0\n0,x,2,1\n", "row 1, column 1 is 'x', wanted a number", 1, 1),
        (b"0,1,2,0\n0,,2,1\n", "row 1, column 1 is '', wanted a number", 1, 1),
        (b"", "has no rows", None, None),
    ],
)
def test_a_bad_table_is_refused_with_row_and_column(text: bytes, message: str, row: int | None, column: object) -> None:
    with pytest.raises(BadRecord, match=message) as caught:
        parse(text)
    assert (caught.value.facts["source"], caught.value.facts["row"], caught.value.facts["column"]) == ("t.csv", row, column)


@pytest.mark.parametrize("cut", [5, 20])
def test_a_truncated_gzip_file_is_refused(cut: int) -> None:
    data = gzip.compress(TABLE)
    with pytest.raises(BadRecord, match=r"t\.gz is not a whole gzip file"):
        formats.gunzip(data[:-cut], source="t.gz")


def idx_bytes() -> bytes:
    return struct.pack(">HBB3I", 0, 8, 3, 4, 2, 3) + bytes(range(24))


def test_an_idx_file_becomes_an_array() -> None:
    array = formats.parse_idx(idx_bytes(), num_dims=3, source="t.idx")
    assert array.shape == (4, 2, 3)
    assert array[3].tolist() == [[18, 19, 20], [21, 22, 23]]


def test_a_truncated_idx_file_names_the_row_where_it_ends() -> None:
    with pytest.raises(BadRecord, match=r"has 17 bytes of data, but its header says 24 \(4 rows\)") as caught:
        formats.parse_idx(idx_bytes()[:-7], num_dims=3, source="t.idx")
    assert caught.value.facts["row"] == 2


@pytest.mark.parametrize(("data", "message"), [(b"\x00\x00", "wanted a header of 16"), (b"\x00\x00\x08\x01" + bytes(20), "has magic 00000801")])
def test_a_file_that_is_no_idx_of_three_dimensions_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BadRecord, match=message):
        formats.parse_idx(data, num_dims=3, source="t.idx")
