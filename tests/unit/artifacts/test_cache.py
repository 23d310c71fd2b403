"""The read cache keeps the contract, stays within its bound, believes only what has its hash, and fails no read."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foundry_ray.artifacts.cache import Cached, uncached
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.errors import StoreUnavailable
from foundry_ray.protocols import ArtifactStore
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.store_contract import StoreContract
from foundry_ray.testing.stores import FailingStore, MemoryStore

_BOUND_BYTES = 1_000


class TestCached(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Cached:
        return Cached(LocalStore(tmp_path / "store"), folder=tmp_path / "cache", max_bytes=1 << 30, clock=FakeClock())


@pytest.fixture
def inner(store: MemoryStore) -> FailingStore:
    return FailingStore(store)


@pytest.fixture
def cached(inner: FailingStore, clock: FakeClock, tmp_path: Path) -> Cached:
    return Cached(inner, folder=tmp_path / "cache", max_bytes=_BOUND_BYTES, clock=clock)


def _put(store: ArtifactStore, data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    store.put(f"blobs/sha256/{sha256[:2]}/{sha256}", data)
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def _kept(cached: Cached) -> list[Path]:
    return sorted(cached._shelf.folder.glob("[0-9a-f][0-9a-f]/*"))


def _num_reads(inner: FailingStore) -> int:
    return sum(verb in ("get", "download") for verb, _ in inner.calls)


def test_a_blob_is_read_from_the_store_once(cached: Cached, inner: FailingStore, store: MemoryStore, tmp_path: Path) -> None:
    key = _put(store, b"0123456789")
    assert [cached.get(key) for _ in range(3)] == [b"0123456789"] * 3
    assert cached.get(key, start=2, size=3) == b"234"
    assert cached.download(key, tmp_path / "out") == key[-64:]
    assert (tmp_path / "out").read_bytes() == b"0123456789"
    assert _num_reads(inner) == 1


def test_a_download_fills_the_cache_and_a_later_generation_is_the_same_blob(
    cached: Cached, inner: FailingStore, store: MemoryStore, tmp_path: Path
) -> None:
    key = _put(store, b"data")
    cached.download(key, tmp_path / "out")
    assert cached.get(f"{key}.1") == b"data"
    assert _num_reads(inner) == 1


def test_what_has_no_hash_for_a_name_is_not_kept(cached: Cached, inner: FailingStore, store: MemoryStore) -> None:
    store.put("runs/a/record.json", b"1")
    cached.get("runs/a/record.json")
    store.put("runs/a/record.json", b"2")
    assert cached.get("runs/a/record.json") == b"2"


def test_a_range_is_not_kept(cached: Cached, store: MemoryStore) -> None:
    assert cached.get(_put(store, b"0123456789"), start=2, size=3) == b"234"
    assert _kept(cached) == []


@pytest.mark.parametrize("damage", [b"evil", b"", b"dat", b"data and more"])
@pytest.mark.parametrize("read", ["get", "range", "download"])
def test_a_damaged_copy_is_dropped_and_read_again(
    read: str, damage: bytes, cached: Cached, store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = _put(store, b"data")
    cached.get(key)
    cached.get(key, start=1)
    _kept(cached)[0].write_bytes(damage)
    os.utime(_kept(cached)[0], ns=(0, 0))
    if read == "download":
        cached.download(key, tmp_path / "out")
    data = {"get": lambda: cached.get(key), "range": lambda: cached.get(key, start=1), "download": (tmp_path / "out").read_bytes}[read]()
    assert data == (b"ata" if read == "range" else b"data")
    assert "had other bytes" in caplog.text


def test_a_rotten_blob_of_the_store_is_returned_as_it_is_and_not_kept(cached: Cached, store: MemoryStore, tmp_path: Path) -> None:
    key = _put(store, b"data")
    store.put(key, b"evil")
    assert cached.get(key) == b"evil"
    assert cached.download(key, tmp_path / "out") == hashlib.sha256(b"evil").hexdigest()
    assert _kept(cached) == []


def test_what_was_used_longest_ago_goes_first(cached: Cached, store: MemoryStore, clock: FakeClock) -> None:
    old, used, new = (_put(store, bytes([letter]) * 400) for letter in b"abc")
    for key in (old, used, old, used, new):
        cached.get(key)
        clock.advance(10)
    assert {path.name for path in _kept(cached)} == {used[-64:], new[-64:]}


def test_the_bound_holds_while_many_read_at_once(clock: FakeClock, tmp_path: Path) -> None:
    inner = LocalStore(tmp_path / "store")
    cached = Cached(inner, folder=tmp_path / "cache", max_bytes=_BOUND_BYTES, clock=clock)
    keys = [_put(inner, bytes([number]) * 90) for number in range(50)]
    copies = [pickle.loads(pickle.dumps(cached)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: [one.get(key) for key in keys], copies))
    assert 0 < sum(path.stat().st_size for path in _kept(cached)) <= _BOUND_BYTES


def test_a_blob_above_the_bound_passes_through(cached: Cached, store: MemoryStore, tmp_path: Path) -> None:
    key = _put(store, b"x" * (_BOUND_BYTES + 1))
    assert len(cached.get(key)) == _BOUND_BYTES + 1
    cached.download(key, tmp_path / "out")
    assert _kept(cached) == []


@pytest.mark.parametrize("read", [lambda store, key, path: store.get(key), lambda store, key, path: store.download(key, path)])
def test_a_full_disk_fails_no_read(
    read: object, cached: Cached, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("foundry_ray.artifacts.cache.write_whole", fail)
    monkeypatch.setattr("foundry_ray.artifacts.cache.copy", fail)
    assert read(cached, _put(store, b"data"), tmp_path / "out") in (b"data", hashlib.sha256(b"data").hexdigest())
    assert "is not kept in" in caplog.text
    assert "No space left on device" in caplog.text
    assert [path for path in cached._shelf.folder.rglob("*") if path.is_file()] == [cached._shelf.folder / "bytes"]


def test_a_folder_that_cannot_be_made_fails_no_read(inner: FailingStore, store: MemoryStore, clock: FakeClock, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cached = Cached(inner, folder=tmp_path / "file" / "cache", max_bytes=100, clock=clock)
    assert cached.get(_put(store, b"data")) == b"data"


def test_a_lock_that_is_never_free_fails_no_read(cached: Cached, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise BlockingIOError

    monkeypatch.setattr("fcntl.flock", busy)
    assert cached.get(_put(store, b"data")) == b"data"
    assert _kept(cached) == []


def test_a_result_may_be_written_into(cached: Cached, store: MemoryStore, tmp_path: Path) -> None:
    key = _put(store, b"data")
    for _ in range(2):
        cached.download(key, tmp_path / "out")
        (tmp_path / "out").write_bytes(b"mine")
    assert cached.get(key) == b"data"


def test_scratch_of_a_killed_writer_goes_when_room_is_made(cached: Cached, store: MemoryStore, clock: FakeClock) -> None:
    cached.get(_put(store, b"a" * 600))
    scratch = cached._shelf.folder / "~left"
    scratch.write_bytes(b"half")
    os.utime(scratch, (clock.now_s() - 7_200,) * 2)
    cached.get(_put(store, b"b" * 600))
    assert not scratch.exists()


def test_a_lost_count_is_counted_again(cached: Cached, store: MemoryStore) -> None:
    cached.get(_put(store, b"a" * 600))
    (cached._shelf.folder / "bytes").write_text("nonsense")
    cached.get(_put(store, b"b" * 600))
    assert len(_kept(cached)) == 1


def test_errors_of_the_store_pass(cached: Cached, inner: FailingStore, store: MemoryStore) -> None:
    key = _put(store, b"data")
    inner.fail("get")
    with pytest.raises(StoreUnavailable, match="did not answer get"):
        cached.get(key)


def test_who_asks_whether_a_store_is_sound_looks_behind_the_cache(cached: Cached, inner: FailingStore) -> None:
    assert uncached(cached) is inner
    assert uncached(inner) is inner
