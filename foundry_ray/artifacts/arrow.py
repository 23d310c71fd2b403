"""A pyarrow view of a store, for Ray: every kind of store, with its credentials, retries and verification.

Ray hands `storage_filesystem` to its workers through its control store. The view carries the ArtifactStore, which finds its credentials where
it lands; a plain `S3FileSystem` would carry the secret key along, and would be a second client with failures of its own.

A store has no folders. One exists while an object lies in it; one that was created empty is an object with a name that no file can have.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as arrow
from pyarrow import fs

from foundry_ray.artifacts._arrow_names import FOLDER_MARK, key_of, path_of
from foundry_ray.artifacts._arrow_streams import Download, Upload
from foundry_ray.errors import StoreError
from foundry_ray.protocols import ArtifactStore, ObjectInfo

_log = logging.getLogger(__name__)


def arrow_filesystem(store: ArtifactStore) -> Any:
    """A pyarrow FileSystem whose paths are the store's keys. It pickles without credentials.

    Its errors are FileNotFoundError and its kin where Arrow has a word for them, and StoreError with all that the store said elsewhere.
    """
    return fs.PyFileSystem(_StoreView(store))


class _StoreView(fs.FileSystemHandler):  # type: ignore[misc]
    """What Arrow asks for, in the store's words."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._lost: list[StoreError] = []

    def __reduce__(self) -> tuple[object, ...]:
        return _StoreView, (self._store,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StoreView) and self._store.uri == other._store.uri

    def __hash__(self) -> int:
        return hash(self._store.uri)

    def __repr__(self) -> str:
        return f"StoreView({self._store.uri})"

    def get_type_name(self) -> str:
        return "foundry"

    def normalize_path(self, path: str) -> str:
        return "/".join(name for name in path.split("/") if name not in ("", "."))

    def get_file_info(self, paths: list[str]) -> list[Any]:
        self._raise_lost()
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: Any) -> list[Any]:
        self._raise_lost()
        base = self._info(selector.base_dir)
        if base.type == fs.FileType.Directory:
            return self._children(selector.base_dir, is_recursive=selector.recursive)
        if base.type == fs.FileType.File:
            raise _os_error(errno.ENOTDIR, selector.base_dir)
        if not selector.allow_not_found:
            raise _os_error(errno.ENOENT, selector.base_dir)
        return []

    def create_dir(self, path: str, recursive: bool) -> None:
        self._raise_lost()
        found = self._info(path)
        if found.type == fs.FileType.File:
            raise _os_error(errno.EEXIST, path)
        parent = path.strip("/").rpartition("/")[0]
        if not recursive and self._info(parent).type != fs.FileType.Directory:
            raise _os_error(errno.ENOENT, parent)
        if found.type == fs.FileType.NotFound:
            self._store.put(_mark_of(path), b"")

    def delete_dir(self, path: str) -> None:
        self._raise_lost()
        keys = [info.key for info in self._objects(path)]
        if not keys:
            raise _os_error(errno.ENOENT, path)
        self._store.delete(*keys)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        if not self.normalize_path(path):
            self.delete_root_dir_contents()
        if self._info(path).type == fs.FileType.Directory:
            self._store.put(_mark_of(path), b"")
            self._store.delete(*[info.key for info in self._objects(path) if info.key != _mark_of(path)])
        elif not missing_dir_ok:
            raise _os_error(errno.ENOENT, path)

    def delete_root_dir_contents(self) -> None:
        raise StoreError("the whole store is never deleted through its pyarrow view.", hint="delete a folder.")

    def delete_file(self, path: str) -> None:
        self._require_file(path)
        self._store.delete(key_of(path))

    def move(self, src: str, dest: str) -> None:
        if self._info(src).type == fs.FileType.File:
            self.copy_file(src, dest)
            self._store.delete(key_of(src))
            return
        source, target = key_of(src), key_of(dest)
        objects = list(self._objects(src))
        if not objects:
            raise _os_error(errno.ENOENT, src)
        for info in objects:
            self._copy(info.key, target + info.key[len(source) :])
        self._store.delete(*[info.key for info in objects])

    def copy_file(self, src: str, dest: str) -> None:
        self._require_file(src)
        self._copy(key_of(src), key_of(dest))

    def open_input_stream(self, path: str) -> Any:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> Any:
        return arrow.PythonFile(Download(self._store, key_of(path), self._require_file(path).size), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        self._raise_lost()
        caller = sys._getframe().f_back  # none in a thread of Arrow's own
        is_copy = caller is None or (caller.f_globals.get("__name__"), caller.f_code.co_name) == ("pyarrow.fs", "copy_files")
        return arrow.PythonFile(Upload(self._store, key_of(path), is_copy=is_copy, on_lost=self._remember), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise StoreError(f"{path} cannot be appended to: objects of {self._store.uri} are written whole.", hint="write another file.")

    def _info(self, path: str) -> Any:
        key = key_of(path)
        if not key:
            return fs.FileInfo(path, fs.FileType.Directory)
        found = self._store.stat(key)
        if found is not None:
            return _file_info(path, found)
        is_folder = self._store.stat(_mark_of(path)) is not None or next(self._objects(path), None) is not None
        return fs.FileInfo(path, fs.FileType.Directory if is_folder else fs.FileType.NotFound)

    def _objects(self, path: str) -> Iterator[ObjectInfo]:
        """All that lies in a folder, its mark included."""
        key = key_of(path)
        return self._store.list(f"{key}/" if key else "")

    def _children(self, base_dir: str, *, is_recursive: bool) -> list[Any]:
        base = self.normalize_path(base_dir)
        start = len(key_of(base)) + 1 if base else 0
        found: dict[str, Any] = {}
        for info in self._objects(base):
            names = path_of(info.key[start:]).split("/")
            for depth in range(1, len(names) if is_recursive else min(2, len(names))):
                folder = "/".join((base, *names[:depth])).lstrip("/")
                found.setdefault(folder, fs.FileInfo(folder, fs.FileType.Directory))
            if names[-1] != FOLDER_MARK and (is_recursive or len(names) == 1):
                path = "/".join((base, *names)).lstrip("/")
                found[path] = _file_info(path, info)
        return list(found.values())

    def _require_file(self, path: str) -> Any:
        self._raise_lost()
        found = self._info(path)
        if found.type == fs.FileType.Directory:
            raise _os_error(errno.EISDIR, path)
        if found.type == fs.FileType.NotFound:
            raise _os_error(errno.ENOENT, path)
        return found

    def _copy(self, source: str, target: str) -> None:
        with tempfile.TemporaryDirectory(prefix="foundry-copy-") as folder:
            path = Path(folder) / "copy"
            self._store.download(source, path)
            self._store.put(target, path)

    def _remember(self, error: StoreError) -> None:
        """Arrow ignores this error; the next call on this view raises it."""
        _log.error("%s", error)
        self._lost.append(error)

    def _raise_lost(self) -> None:
        if self._lost:
            raise self._lost.pop()


def _file_info(path: str, info: ObjectInfo) -> Any:
    return fs.FileInfo(path, fs.FileType.File, size=info.size_bytes, mtime=info.modified_at_s)


def _mark_of(path: str) -> str:
    return f"{key_of(path)}/{FOLDER_MARK}"


def _os_error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)
