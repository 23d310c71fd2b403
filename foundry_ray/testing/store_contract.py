"""What every ArtifactStore must do, as a test class to inherit from.

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self): return MyStore(...)

The store may hold other objects already: every test works under a prefix of its own. A store that cannot keep a promise says so in
`EXCLUDED`, with the reason: the test is skipped, and the reason printed.
"""

from __future__ import annotations

import hashlib
import pickle
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from foundry_ray.errors import ArtifactNotFound, Conflict, StoreError
from foundry_ray.protocols import ArtifactStore

_BIG_BYTES = 20 << 20  # above the size at which uploads go in parts
_NUM_RACERS = 8
_HOSTILE_KEYS = (
    "",
    "/absolute",
    "../escape",
    "a/../../escape",
    "a//b",
    "a/",
    "a/./b",
    "a\\b",
    "a b",
    "~tmp/x",
    "é",
    "a\nb",
    "a/" + "x" * 256,
    "x/" * 500 + "x",
)


class StoreContract:
    """Inherit and give a fixture `store`.

    Attributes:
        EXCLUDED: Tests that this store cannot pass, by name, with the reason.
        NUM_LISTED: Objects of a long listing: above the 1,000 of a page, unless the store's pages are known to be smaller.
    """

    EXCLUDED: ClassVar[Mapping[str, str]] = {}
    NUM_LISTED: ClassVar[int] = 1_100

    @pytest.fixture(autouse=True)
    def _skip_what_is_excluded(self, request: pytest.FixtureRequest) -> None:
        reason = self.EXCLUDED.get(request.function.__name__)
        if reason is not None:
            pytest.skip(reason)

    @pytest.fixture
    def folder(self) -> str:
        """A prefix that no other test uses."""
        return f"contract/{uuid.uuid4().hex}"

    def test_what_was_put_is_read_back(self, store: ArtifactStore, folder: str) -> None:
        for name, data in (("empty", b""), ("small", b"\x00\xff"), ("big", b"0123456789abcdef" * (_BIG_BYTES // 16))):
            store.put(f"{folder}/{name}", data)
            assert store.get(f"{folder}/{name}") == data

    def test_a_file_is_put_and_downloaded(self, store: ArtifactStore, folder: str, tmp_path: Path) -> None:
        files = tmp_path / "files"
        files.mkdir()
        source, target = files / "source", files / "target"
        source.write_bytes(b"ab" * (_BIG_BYTES // 2))
        store.put(f"{folder}/file", source)
        assert store.download(f"{folder}/file", target) == hashlib.sha256(source.read_bytes()).hexdigest()
        assert target.read_bytes() == source.read_bytes()
        assert sorted(path.name for path in files.iterdir()) == ["source", "target"]

    def test_a_range_of_an_object_is_read(self, store: ArtifactStore, folder: str) -> None:
        store.put(f"{folder}/a", b"0123456789")
        spans = [(0, 4), (3, 0), (4, None), (8, 5), (10, 1)]
        assert [store.get(f"{folder}/a", start=start, size=size) for start, size in spans] == [b"0123", b"", b"456789", b"89", b""]

    def test_a_second_put_replaces_the_first(self, store: ArtifactStore, folder: str) -> None:
        store.put(f"{folder}/a", b"long first")
        store.put(f"{folder}/a", b"second")
        assert store.get(f"{folder}/a") == b"second"

    def test_put_if_absent_refuses_to_overwrite(self, store: ArtifactStore, folder: str) -> None:
        store.put(f"{folder}/a", b"first", if_absent=True)
        with pytest.raises(Conflict, match=f"{folder}/a exists already") as caught:
            store.put(f"{folder}/a", b"second", if_absent=True)
        assert caught.value.facts["key"] == f"{folder}/a"
        assert store.get(f"{folder}/a") == b"first"

    def test_of_racing_creators_exactly_one_wins(self, store: ArtifactStore, folder: str) -> None:
        start = threading.Barrier(_NUM_RACERS)

        def race(number: int) -> bool:
            start.wait(timeout=30)
            return _is_done(lambda: store.put(f"{folder}/prize", b"%d" % number, if_absent=True))

        with ThreadPoolExecutor(_NUM_RACERS) as pool:
            won = list(pool.map(race, range(_NUM_RACERS)))
        assert won.count(True) == 1
        assert store.get(f"{folder}/prize") == b"%d" % won.index(True)

    def test_readers_see_whole_objects_while_they_are_replaced(self, store: ArtifactStore, folder: str) -> None:
        versions = [bytes([letter]) * 50_000 for letter in b"abcd"]
        store.put(f"{folder}/a", versions[0])
        with ThreadPoolExecutor(1) as pool:
            writing = [pool.submit(store.put, f"{folder}/a", data) for data in versions * 3]
            while not writing[-1].done():
                assert store.get(f"{folder}/a") in versions
            for done in writing:
                done.result()

    def test_what_is_absent_is_said_to_be(self, store: ArtifactStore, folder: str, tmp_path: Path) -> None:
        with pytest.raises(ArtifactNotFound, match=f"{folder}/none is not in"):
            store.get(f"{folder}/none")
        files = tmp_path / "files"
        files.mkdir()
        with pytest.raises(ArtifactNotFound, match=f"{folder}/none is not in"):
            store.download(f"{folder}/none", files / "none")
        assert store.stat(f"{folder}/none") is None
        assert list(files.iterdir()) == []

    def test_stat_gives_size_and_time(self, store: ArtifactStore, folder: str) -> None:
        store.put(f"{folder}/a", b"12345")
        info = store.stat(f"{folder}/a")
        assert info is not None
        assert (info.key, info.size_bytes) == (f"{folder}/a", 5)

    def test_a_deleted_object_is_gone_and_deleting_again_is_no_error(self, store: ArtifactStore, folder: str) -> None:
        store.put(f"{folder}/a", b"1")
        store.put(f"{folder}/b", b"1")
        store.delete(f"{folder}/a", f"{folder}/b")
        store.delete(f"{folder}/a")
        assert list(store.list(f"{folder}/")) == []
        assert store.stat(f"{folder}/a") is None
        store.put(f"{folder}/a", b"2", if_absent=True)

    def test_listing_is_by_prefix_and_in_key_order(self, store: ArtifactStore, folder: str) -> None:
        names = ["ab", "a/x", "a-b", "a.c", "a/b/c", "b"]
        for name in names:
            store.put(f"{folder}/{name}", name.encode())
        assert [info.key for info in store.list(f"{folder}/a")] == [f"{folder}/{name}" for name in sorted(names) if name.startswith("a")]
        assert [info.key for info in store.list(f"{folder}/a/")] == [f"{folder}/a/b/c", f"{folder}/a/x"]
        assert [info.size_bytes for info in store.list(f"{folder}/a/")] == [5, 3]
        assert list(store.list(f"{folder}/none/")) == []

    def test_a_long_listing_is_complete(self, store: ArtifactStore, folder: str) -> None:
        keys = [f"{folder}/{number:05d}" for number in range(self.NUM_LISTED)]
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(store.put, key, b"") for key in keys]:
                done.result()
        assert [info.key for info in store.list(f"{folder}/")] == keys

    @pytest.mark.parametrize("key", _HOSTILE_KEYS, ids=lambda key: repr(key)[:20])
    def test_hostile_keys_are_refused(self, store: ArtifactStore, key: str, tmp_path: Path) -> None:
        for action in (lambda: store.put(key, b""), lambda: store.get(key), lambda: store.stat(key), lambda: store.delete(key)):
            with pytest.raises(StoreError, match="the key"):
                action()
        with pytest.raises(StoreError, match="the key"):
            store.download(key, tmp_path / "x")

    def test_a_pickled_copy_is_the_same_store(self, store: ArtifactStore, folder: str) -> None:
        store.put(f"{folder}/a", b"1")
        copy: ArtifactStore = pickle.loads(pickle.dumps(store))
        assert (copy.uri, copy.get(f"{folder}/a")) == (store.uri, b"1")

    def test_the_store_keeps_its_protocol(self, store: ArtifactStore) -> None:
        assert isinstance(store, ArtifactStore)


def _is_done(action: Callable[[], None]) -> bool:
    try:
        action()
    except Conflict:
        return False
    return True
