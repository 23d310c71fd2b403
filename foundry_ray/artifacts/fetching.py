"""Reading artifacts: one file, or all into a folder. Bytes with another hash than the manifest says are never returned, nor left on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from foundry_ray.artifacts.blobs import MEND, BlobInfo, corrupt, describe
from foundry_ray.artifacts.manifest import load_manifest
from foundry_ray.artifacts.packs import PACK_BYTES
from foundry_ray.artifacts.threads import NUM_THREADS, in_threads
from foundry_ray.errors import ArtifactCorrupt, StoreError
from foundry_ray.protocols import ArtifactStore

T = TypeVar("T")
_log = logging.getLogger(__name__)


def read_file(store: ArtifactStore, key: str, name: str) -> bytes:
    """One file of an artifact, verified. Raises ArtifactNotFound, ArtifactCorrupt, or StoreError for a name that it does not have."""
    files = load_manifest(store, key).files
    if name not in files:
        raise StoreError(f"{key} has no file {name!r}, it has {', '.join(sorted(files)[:20])}.", hint="name one of them.")
    return _again_if_damaged(lambda: _read(store, files[name], f"{key}:{name}"))


def fetch(store: ArtifactStore, key: str, directory: Path, *, num_threads: int = NUM_THREADS) -> dict[str, Path]:
    """All files of an artifact into a folder, each verified before it appears; those already there are kept. Returns paths by name."""
    manifest = load_manifest(store, key)
    names = list(manifest.files)
    fetching = _Fetch(store, key, manifest.files, directory)
    good = in_threads(fetching.is_there, names, num_threads=num_threads)
    by_object: dict[str, list[str]] = {}
    for name, is_good in zip(names, good, strict=True):
        if not is_good:
            by_object.setdefault(manifest.files[name].key, []).append(name)
    for folder in {directory, *((directory / name).parent for name in names)}:
        folder.mkdir(parents=True, exist_ok=True)
    num_splitters = max(1, num_threads // max(1, len(by_object)))
    in_threads(
        lambda names: _again_if_damaged(lambda: fetching.take(names, num_splitters=num_splitters)), by_object.values(), num_threads=num_threads
    )
    return {name: directory / name for name in names}


@dataclass(frozen=True)
class _Fetch:
    """One artifact on its way into a folder."""

    store: ArtifactStore
    key: str
    files: Mapping[str, BlobInfo]
    directory: Path

    def is_there(self, name: str) -> bool:
        path, blob = self.directory / name, self.files[name]
        return path.is_file() and path.stat().st_size == blob.size_bytes and describe(path).sha256 == blob.sha256

    def take(self, names: list[str], *, num_splitters: int) -> None:
        """Files that lie in one object: the object as a whole, or, where few of them are wanted, each by a range read."""
        blob = self.files[names[0]]
        if blob.pack is None:
            self._take_blob(names, blob)
            return
        size_bytes = self._pack_size(blob, names[0])
        if 2 * sum(self.files[name].size_bytes for name in names) < size_bytes and len(names) <= NUM_THREADS:
            for name in names:
                self._place(name, _read(self.store, self.files[name], f"{self.key}:{name}"))
        else:
            self._take_pack(names, blob, num_splitters)

    def _take_blob(self, names: list[str], blob: BlobInfo) -> None:
        with self._scratch() as unverified:
            actual = self.store.download(blob.key, unverified)
            if actual != blob.sha256:
                raise corrupt(f"{self.key}:{names[0]}", blob.sha256, actual)
            for name in names[1:]:
                with self._scratch() as copy:
                    shutil.copyfile(unverified, copy)
                    copy.replace(self.directory / name)
            unverified.replace(self.directory / names[0])

    def _take_pack(self, names: list[str], blob: BlobInfo, num_splitters: int) -> None:
        with self._scratch() as pack:
            self.store.download(blob.key, pack)
            with pack.open("rb") as stream:
                in_threads(partial(self._take_out, stream.fileno()), names, num_threads=num_splitters)

    def _take_out(self, pack: int, name: str) -> None:
        """One file of a downloaded pack. To create a file takes a file system longer than to fill it, so some threads do it."""
        blob = self.files[name]
        self._place(name, _verified(os.pread(pack, blob.size_bytes, blob.offset), blob, f"{self.key}:{name}"))

    def _pack_size(self, blob: BlobInfo, name: str) -> int:
        info = self.store.stat(blob.key)
        if info is not None and info.size_bytes > PACK_BYTES:
            message = f"{blob.key}, where {self.key} keeps {name}, has {info.size_bytes} bytes, a pack has at most {PACK_BYTES}."
            raise ArtifactCorrupt(message, hint=MEND, key=blob.key)
        return info.size_bytes if info is not None else 0

    def _place(self, name: str, data: bytes) -> None:
        with self._scratch() as temporary:
            temporary.write_bytes(data)
            temporary.replace(self.directory / name)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A path in the same file system, so that a file appears whole or not at all; "~" is in no name."""
        path = self.directory / f"~{uuid.uuid4().hex}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _again_if_damaged(action: Callable[[], T]) -> T:
    """What was damaged on its way is right when it is read again (servers check no part of an object); what rots in the store stays wrong."""
    try:
        return action()
    except ArtifactCorrupt as error:
        _log.warning("%s Reading it again.", error.message)
        return action()


def _read(store: ArtifactStore, blob: BlobInfo, what: str) -> bytes:
    span = {} if blob.pack is None else {"start": blob.offset, "size": blob.size_bytes}
    return _verified(store.get(blob.key, **span), blob, what)


def _verified(data: bytes, blob: BlobInfo, what: str) -> bytes:
    actual = hashlib.sha256(data).hexdigest()
    if actual != blob.sha256:
        raise corrupt(what, blob.sha256, actual)
    return data
