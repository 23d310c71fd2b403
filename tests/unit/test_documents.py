"""Bytes from outside become JSON values, or an error that says why not."""

from __future__ import annotations

import pytest

from foundry_ray.documents import canonical_bytes, parse_json
from foundry_ray.errors import ArtifactCorrupt


def test_a_document_comes_back() -> None:
    document = {"a": [1, 2.5, "x", None, True, {"b": []}]}
    assert parse_json(canonical_bytes(document), what="x") == document


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "runs/x is not JSON"),
        (b"\xff\xfe\xfd", "runs/x is not JSON"),
        (b"[NaN]", "runs/x is not JSON: NaN is no finite number"),
        (b"[1e999]", "runs/x is not JSON: 1e999 is no finite number"),
        (b"1" * 5000, "runs/x is not JSON"),
        (b"[" * 100_000, "runs/x is nested deeper than 100 levels"),
        (b"[" * 101 + b"]" * 101, "runs/x is nested deeper than 100 levels"),
    ],
)
def test_what_is_no_document_is_corrupt_and_named(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactCorrupt, match=message):
        parse_json(data, what="runs/x")


def test_a_hundred_levels_are_read() -> None:
    assert canonical_bytes(parse_json(b"[" * 100 + b"]" * 100, what="x")) == b"[" * 100 + b"]" * 100
