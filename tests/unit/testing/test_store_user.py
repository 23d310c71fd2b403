"""What the user of the fault tests publishes follows from the seed alone, and covers small, many small, and big files."""

from __future__ import annotations

from pathlib import Path

from foundry_ray.artifacts.manifests import publish
from foundry_ray.testing.store_user import BIG_BYTES, contents, digests_of, read
from foundry_ray.testing.stores import MemoryStore


def test_contents_follow_from_seed_and_number() -> None:
    assert contents(1, 0) == contents(1, 0)
    assert len({contents(seed, number)["small"] for seed in (1, 2) for number in (0, 3)}) == 4


def test_all_sizes_come_in_turn() -> None:
    sizes = [sorted(len(data) for data in contents(0, number).values()) for number in range(6)]
    assert [len(one) for one in sizes] == [1, 40, 2, 1, 40, 1]
    assert sizes[2][-1] == BIG_BYTES


def test_what_is_read_is_told_by_its_digests(memory_store: MemoryStore, tmp_path: Path) -> None:
    files = contents(0, 1)
    reference = publish(memory_store, kind="model", files=files, created_at="")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale").touch()
    assert read(memory_store, reference.key, tmp_path / "out") == digests_of(files)
