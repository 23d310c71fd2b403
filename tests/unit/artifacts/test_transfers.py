"""How an object is cut into parts: from its size alone, within what S3 allows."""

from __future__ import annotations

import pytest

from foundry_ray.artifacts.s3.uploads import part_bytes_of

_MIB, _GIB, _TIB = 1 << 20, 1 << 30, 1 << 40


@pytest.mark.parametrize(("size", "part_mib"), [(1, 16), (16 * _MIB, 16), (150 * _GIB, 16), (160_000 * _MIB, 16), (160_000 * _MIB + 1, 17)])
def test_parts_have_16_mib_until_there_would_be_too_many(size: int, part_mib: int) -> None:
    assert part_bytes_of(size) == part_mib * _MIB


@pytest.mark.parametrize("size", [157 * _GIB, _TIB, 5 * _TIB - 1, 5 * _TIB])
def test_the_biggest_objects_keep_to_the_limits_of_s3(size: int) -> None:
    assert -(-size // part_bytes_of(size)) <= 10_000
    assert part_bytes_of(size) <= 5 * _GIB
