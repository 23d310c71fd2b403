"""A read cache in a local folder, for blobs of a store that is far away: what was read once is read from the disk after that.

Only blobs are kept: they are named by the hash of their bytes, so that a kept one is never stale, and a hit is believed only after its bytes
have that hash. The folder has a bound; what was used longest ago goes first. Any number of processes share it: files appear by renaming, and
one at a time makes room. Nothing here can fail a read: where the folder is full, locked or broken, the inner store answers alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TypeVar

from foundry_ray.artifacts.copying import copy, copy_and_hash, write_whole
from foundry_ray.protocols import ArtifactStore, Clock, ObjectInfo

_BLOB = re.compile(r"blobs/sha256/[0-9a-f]{2}/([0-9a-f]{64})(\.[0-9]+)?")
_KEPT_RATIO = 0.9  # making room goes below the bound, so that the next writers need not
_LOCK_TIMEOUT_S = 2.0
_LOCK_POLL_S = 0.005
_SCRATCH_AGE_S = 3_600.0
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Cached:
    """An ArtifactStore that keeps the blobs which it reads from `inner`.

    Args:
        inner: The store that has everything.
        folder: Where to keep them; made when it is needed.
        max_bytes: Most bytes kept; a larger blob is not kept at all.
        clock: Tells what was used last.
    """

    def __init__(self, inner: ArtifactStore, *, folder: Path, max_bytes: int, clock: Clock) -> None:
        self.inner = inner
        self._shelf = _Shelf(folder=folder, max_bytes=max_bytes, clock=clock)

    @property
    def uri(self) -> str:
        return self.inner.uri

    def __repr__(self) -> str:
        return f"Cached({self.inner!r})"

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        self.inner.put(key, source, if_absent=if_absent)

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        blob, is_whole = _BLOB.fullmatch(key), start == 0 and size is None
        if blob is None:
            return self.inner.get(key, start=start, size=size)
        kept = _kept(lambda: self._shelf.read(blob[1]) if is_whole else self._shelf.read_range(blob[1], start, size))
        if kept is not None:
            return kept
        data = self.inner.get(key, start=start, size=size)
        if is_whole and hashlib.sha256(data).hexdigest() == blob[1]:
            self._shelf.keep(blob[1], len(data), lambda stream: write_whole(stream, data))
        return data

    def download(self, key: str, path: Path) -> str:
        blob = _BLOB.fullmatch(key)
        if blob is None:
            return self.inner.download(key, path)
        digest = _kept(lambda: self._shelf.copy_out(blob[1], path))
        if digest is None:
            digest = self.inner.download(key, path)
            if digest == blob[1]:
                self._shelf.keep(digest, path.stat().st_size, lambda stream: copy(path, stream))
        return digest

    def stat(self, key: str) -> ObjectInfo | None:
        return self.inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def delete(self, *keys: str) -> None:
        self.inner.delete(*keys)


def uncached(store: ArtifactStore) -> ArtifactStore:
    """The store behind the cache, for those who ask whether it is sound: a kept blob says nothing of that."""
    return store.inner if isinstance(store, Cached) else store


def _kept(look: Callable[[], T | None]) -> T | None:
    """What a look at the shelf found; None where it could not look."""
    try:
        return look()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("a kept blob could not be read: %s.", error.strerror)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shelf:
    """Files named by the sha256 of their bytes, bounded together.

    Their access time is when they were last used. The file `bytes` holds an upper bound of their sum, so that they need to be counted only
    when the bound is met: it grows before a file appears and is corrected when room is made.
    """

    folder: Path
    max_bytes: int
    clock: Clock
    checked: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # inode, size and time of change of what had its hash

    def read(self, sha256: str) -> bytes | None:
        """The bytes of a kept file; None where they have another hash. Raises OSError, FileNotFoundError where it is not kept."""
        path = self._path(sha256)
        data = path.read_bytes()
        return data if self._judge(path, hashlib.sha256(data).hexdigest()) else None

    def read_range(self, sha256: str, start: int, size: int | None) -> bytes | None:
        """A part, as `read`. The hash is computed again only where the file changed since this process last did it."""
        path = self._path(sha256)
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            state = (found.st_ino, found.st_size, found.st_mtime_ns)
            if self.checked.get(sha256) != state and not self._judge(path, hashlib.file_digest(stream, "sha256").hexdigest()):
                return None
            self.checked[sha256] = state
            stream.seek(start)
            return stream.read(-1 if size is None else size)

    def copy_out(self, sha256: str, path: Path) -> str | None:
        """Copy a kept file to `path`, as `read`; it appears complete or not at all. Returns its hash."""
        kept = self._path(sha256)
        scratch = path.with_name(f"~{uuid.uuid4().hex}")
        with kept.open("rb", buffering=0) as stream:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with scratch.open("xb", buffering=0) as target:
                    digest = copy_and_hash(stream, target)
                if not self._judge(kept, digest):
                    return None
                scratch.replace(path)
                return digest
            finally:
                scratch.unlink(missing_ok=True)

    def keep(self, sha256: str, size: int, write: Callable[[FileIO], None]) -> None:
        """Keep a file, if there is room to be had for it."""
        path = self._path(sha256)
        scratch = self.folder / f"~{uuid.uuid4().hex}"
        try:
            if size > self.max_bytes or path.exists() or not self._reserve(size):
                return
            path.parent.mkdir(exist_ok=True)
            with scratch.open("xb", buffering=0) as stream:
                write(stream)
            self._touch(scratch)
            scratch.replace(path)
        except OSError as error:
            _log.warning("a blob of %d bytes is not kept in %s: %s.", size, self.folder, error.strerror)
        finally:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)

    def _judge(self, path: Path, digest: str) -> bool:
        """Whether a file has its hash, and is thereby used; one that has not is dropped."""
        if digest == path.name:
            self._touch(path)
            return True
        _log.warning("the kept blob %s had other bytes (sha256 %s): it is dropped and read again.", path.name[:12], digest[:12])
        path.unlink(missing_ok=True)
        return False

    def _reserve(self, size: int) -> bool:
        """Make room for `size` bytes and count them. False where another process makes room for too long."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / "bytes").open("a+") as counter:
            if not self._locked(counter.fileno()):
                return False
            counter.seek(0)
            text = counter.read()
            total = int(text) if text.isdecimal() else None
            if total is None or total + size > self.max_bytes:
                total = self._make_room(size)
            counter.seek(0)
            counter.truncate()
            counter.write(str(total + size))
        return True

    def _locked(self, descriptor: int) -> bool:
        deadline_s = self.clock.monotonic_s() + _LOCK_TIMEOUT_S
        while self.clock.monotonic_s() < deadline_s:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.clock.sleep(_LOCK_POLL_S)
            else:
                return True
        return False

    def _make_room(self, size: int) -> int:
        """Remove what was used longest ago, until `size` more bytes fit. Returns the sum of what is left."""
        found = sorted(((entry.st_atime, entry.st_size, path) for path, entry in self._files()), key=lambda each: each[0])
        total = sum(bytes_ for _, bytes_, _ in found)
        wanted = _KEPT_RATIO * self.max_bytes - size if total + size > self.max_bytes else self.max_bytes
        for _, bytes_, path in found:
            if total <= wanted:
                break
            path.unlink(missing_ok=True)
            total -= bytes_
        return total

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Kept files; scratch that somebody left long ago is removed on the way."""
        for path in self.folder.glob("~*"):
            with suppress(FileNotFoundError):
                if self.clock.now_s() - path.stat().st_mtime > _SCRATCH_AGE_S:
                    path.unlink()
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            with suppress(FileNotFoundError):
                yield path, path.stat()

    def _touch(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            os.utime(path, ns=(int(self.clock.now_s() * 1e9), path.stat().st_mtime_ns))

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256
