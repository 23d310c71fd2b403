"""The folder store keeps the contract, and survives what file systems do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from foundry_ray.artifacts import open_store
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.config import Settings
from foundry_ray.errors import StoreDenied, StoreError, StoreUnavailable
from foundry_ray.testing.store_contract import StoreContract


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "a folder" / "store")


def test_a_file_uri_opens_the_folder_that_it_names(tmp_path: Path, settings: Settings) -> None:
    store = open_store((tmp_path / "a b").as_uri(), settings=settings)
    store.put("x", b"1")
    assert (tmp_path / "a b" / "x").read_bytes() == b"1"
    assert store.uri == f"file://{tmp_path}/a%20b"


def test_a_write_that_breaks_off_leaves_neither_object_nor_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StoreUnavailable, match="could not write a: No space left on device"):
            store.put("a", b"new")
    assert store.get("a") == b"old"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "a"]


def test_a_key_below_an_object_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("x", b"1")
    with pytest.raises(StoreError, match="x/y cannot be in"):
        store.put("x/y", b"2")
    assert store.stat("x/y") is None


def test_an_object_above_a_key_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("x/y", b"1")
    with pytest.raises(StoreError, match="x cannot be in"):
        store.put("x", b"2")
    assert store.stat("x") is None


def test_a_folder_without_rights_is_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreDenied, match="refused to write a: Permission denied"):
        LocalStore(tmp_path / "locked").put("a", b"1")


def test_what_a_killed_writer_left_is_swept_and_what_one_writes_now_is_not(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"1")
    left, fresh = tmp_path / "~tmp" / "left", tmp_path / "~tmp" / "fresh"
    left.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(left, (1_000, 1_000))
    now_s = fresh.stat().st_mtime + 10
    assert store.sweep(older_than_s=60, now_s=now_s) == 1
    assert (left.exists(), fresh.exists(), store.get("a")) == (False, True, b"1")


def test_a_store_without_scratch_is_swept_of_nothing(tmp_path: Path) -> None:
    assert LocalStore(tmp_path / "none").sweep(older_than_s=0, now_s=0) == 0


@pytest.mark.parametrize("refused", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_is_copied_where_the_kernel_does_not_copy(refused: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(refused, "no")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1_000_000))
    LocalStore(tmp_path / "store").put("a", source)
    assert (tmp_path / "store" / "a").read_bytes() == source.read_bytes()


def test_a_copy_that_the_kernel_breaks_off_leaves_no_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([4])

    def break_off(*_: object) -> int:
        for count in answers:
            return count
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", break_off)
    (tmp_path / "source").write_bytes(b"12345678")
    with pytest.raises(StoreUnavailable, match="could not write a: No space left on device"):
        LocalStore(tmp_path / "store").put("a", tmp_path / "source")
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
