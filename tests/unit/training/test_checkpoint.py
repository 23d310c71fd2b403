from __future__ import annotations

from pathlib import Path

import pytest

from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, StoreUnavailable
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.training import checkpoint as checkpoints


def test_what_is_saved_is_the_latest(memory_store: MemoryStore) -> None:
    for epoch in (1, 2, 10):
        checkpoints.save_checkpoint(memory_store, "k", epoch, {"a.pt": b"bytes %d" % epoch}, meta={"epoch": epoch})
    last = checkpoints.latest(memory_store, "k")
    assert last is not None
    assert (last.epoch, last.meta) == (10, {"epoch": 10})
    assert checkpoints.read(memory_store, last, "a.pt") == b"bytes 10"
    assert checkpoints.latest(memory_store, "other") is None


def test_a_half_written_checkpoint_does_not_exist(memory_store: MemoryStore) -> None:
    checkpoints.save_checkpoint(memory_store, "k", 1, {"a.pt": b"1"})
    checkpoints.put_part(memory_store, "k", 2, 0, {"a.pt": b"2"})
    with pytest.raises(ArtifactNotFound, match=r"000002/rank-00001\.json"):
        checkpoints.commit(memory_store, "k", 2, world_size=2)
    last = checkpoints.latest(memory_store, "k")
    assert last is not None
    assert last.epoch == 1


def test_the_manifest_is_written_last(memory_store: MemoryStore) -> None:
    store = FailingStore(memory_store)
    checkpoints.save_checkpoint(store, "k", 1, {"a.pt": b"1", "b.pt": b"2"})
    assert store.calls[-1] == ("put", "checkpoints/k/000001/manifest.json")
    store.fail("put", times=1)
    with pytest.raises(StoreUnavailable):
        checkpoints.save_checkpoint(store, "k", 2, {"a.pt": b"3"})
    assert [one.epoch for one in checkpoints.committed(memory_store, "k")] == [1]


def test_parts_of_several_ranks_merge_into_one_directory(memory_store: MemoryStore, tmp_path: Path) -> None:
    for rank in range(3):
        checkpoints.put_part(memory_store, "k", 1, rank, {f"deep/shard-{rank}.pt": b"%d" % rank})
    checkpoint = checkpoints.commit(memory_store, "k", 1, world_size=3)
    checkpoints.fetch(memory_store, checkpoint, tmp_path, ranks={0, 2})
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["shard-0.pt", "shard-2.pt"]
    assert (tmp_path / "deep" / "shard-2.pt").read_bytes() == b"2"


def test_changed_bytes_are_never_returned(memory_store: MemoryStore, tmp_path: Path) -> None:
    checkpoint = checkpoints.save_checkpoint(memory_store, "k", 1, {"a.pt": b"right"})
    memory_store.objects["checkpoints/k/000001/rank-00000/a.pt"] = b"wrong"
    with pytest.raises(ArtifactCorrupt, match=r"rank-00000/a\.pt has sha256 .* wanted"):
        checkpoints.read(memory_store, checkpoint, "a.pt")
    with pytest.raises(ArtifactCorrupt):
        checkpoints.fetch(memory_store, checkpoint, tmp_path)


def test_keeping_deletes_the_manifest_first_and_nothing_else(memory_store: MemoryStore) -> None:
    for epoch in range(1, 6):
        checkpoints.save_checkpoint(memory_store, "k", epoch, {"a.pt": b"%d" % epoch})
    checkpoints.save_checkpoint(memory_store, "other", 1, {"a.pt": b"x"})
    memory_store.put(checkpoints.progress_key("k"), b"{}")
    store = FailingStore(memory_store)
    checkpoints.keep(store, "k", {2, 4, 5})
    assert [one.epoch for one in checkpoints.committed(memory_store, "k")] == [2, 4, 5]
    deleted = [key for verb, key in store.calls if verb == "delete"]
    assert deleted[:2] == ["checkpoints/k/000001/manifest.json", "checkpoints/k/000003/manifest.json"]
    assert checkpoints.latest(memory_store, "other") is not None
    assert checkpoints.progress_key("k") in memory_store.objects
