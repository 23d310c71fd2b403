"""A store in a folder (`file:///path`): for one machine, or for a file system that all nodes mount.

A write goes to a temporary file on the same file system, is fsynced, and is then renamed (or, with `if_absent`, hard-linked, which
fails where the name exists) to its place; the folder is fsynced too. So an object is whole or absent, also after a power cut.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from foundry_ray.artifacts.copying import copy, copy_and_hash, write_whole
from foundry_ray.artifacts.keys import check_key, check_prefix
from foundry_ray.errors import ArtifactNotFound, Conflict, StoreDenied, StoreError, StoreUnavailable
from foundry_ray.protocols import ObjectInfo

_SCRATCH = "~tmp"  # "~" is in no key


class LocalStore:
    """ArtifactStore in the folder `root`, which is created when the first object is written."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def uri(self) -> str:
        return self._root.as_uri()

    @property
    def root(self) -> Path:
        """The folder that holds the objects."""
        return self._root

    def __repr__(self) -> str:
        return f"LocalStore({self.uri})"

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        target = self._path(key)
        with self._translated("write", key):
            self._make_folder(target.parent)
            self._make_folder(self._root / _SCRATCH)
            temporary = self._root / _SCRATCH / uuid.uuid4().hex
            try:
                _write_durably(temporary, source)
                if if_absent:
                    os.link(temporary, target)
                else:
                    temporary.replace(target)
            except FileExistsError as error:
                raise Conflict(f"{key} exists already in {self.uri}.", hint="read it, then decide again.", key=key) from error
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        path = self._path(key)
        with self._translated("read", key), path.open("rb") as stream:
            stream.seek(start)
            return stream.read(size)

    def download(self, key: str, path: Path) -> str:
        source = self._path(key)
        temporary = path.with_name(f"~{uuid.uuid4().hex}")
        with self._translated("read", key), source.open("rb", buffering=0) as stream:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb", buffering=0) as target:
                    digest = copy_and_hash(stream, target)
                temporary.replace(path)
                return digest
            finally:
                temporary.unlink(missing_ok=True)

    def stat(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with self._translated("look at", key):
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return None if path.is_dir() else ObjectInfo(key=key, size_bytes=found.st_size, modified_at_s=found.st_mtime)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._translated("list", prefix):
            yield from self._walk(prefix.rpartition("/")[0], prefix)

    def delete(self, *keys: str) -> None:
        for key in keys:
            path = self._path(key)
            with self._translated("delete", key), suppress(NotADirectoryError):
                path.unlink(missing_ok=True)

    def sweep(self, older_than_s: float, now_s: float) -> int:
        """Remove what writers that were killed more than `older_than_s` ago left half-written. Returns how many files."""
        num_removed = 0
        with self._translated("clean", _SCRATCH):
            for path in (self._root / _SCRATCH).glob("*"):
                with suppress(FileNotFoundError):
                    if now_s - path.stat().st_mtime > older_than_s:
                        path.unlink()
                        num_removed += 1
        return num_removed

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        try:
            entries = sorted(os.scandir(self._root / folder), key=lambda entry: entry.name + "/" * entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            key = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("~"):
                continue
            if entry.is_dir():
                if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                    yield from self._walk(key, prefix)
            elif key.startswith(prefix):
                info = self.stat(key)
                if info is not None:
                    yield info

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        if folder != folder.parent:
            self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)

    @contextmanager
    def _translated(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            message = f"{self.uri} refused to {action} {key}: {error.strerror}."
            raise StoreDenied(message, hint="give this user read and write access to the folder.", uri=self.uri) from error
        except OSError as error:
            raise self._failure(error, action, key) from error

    def _failure(self, error: OSError, action: str, key: str) -> StoreError:
        if action != "write" and isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
            return ArtifactNotFound(f"{key} is not in {self.uri}.", hint="`foundry runs list` shows what the store holds.", key=key)
        if isinstance(error, (FileExistsError, IsADirectoryError, NotADirectoryError)):
            return StoreError(
                f"{key} cannot be in {self.uri}: it, or a part of its path, is a file on one side and a folder on the other.",
                hint="choose another key.",
            )
        message = f"{self.uri} could not {action} {key}: {error.strerror}."
        return StoreUnavailable(message, hint="check the disk: space, mount, health.", uri=self.uri)


def _write_durably(path: Path, source: bytes | Path) -> None:
    with path.open("xb", buffering=0) as stream:
        if isinstance(source, bytes):
            write_whole(stream, source)
        else:
            copy(source, stream)
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
