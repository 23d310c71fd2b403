"""A store in memory that keeps the contract, one that fails on demand, and one whose process dies."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from foundry_ray.errors import ArtifactNotFound, Conflict, StoreUnavailable
from foundry_ray.protocols import ArtifactStore, Clock, ObjectInfo

T = TypeVar("T")


class MemoryStore:
    """An ArtifactStore whose objects are a dictionary. Writes are atomic.

    Args:
        clock: Gives the times of objects; without one, times count writes.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.clock = clock
        self._num_writes = 0
        self._written: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        return "memory://"

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        data = source if isinstance(source, bytes) else source.read_bytes()
        with self._lock:
            if if_absent and key in self.objects:
                raise Conflict(f"{key} exists already.", hint="read it first.", key=key)
            self.objects[key] = data
            self._num_writes += 1
            self._written[key] = float(self._num_writes) if self.clock is None else self.clock.now_s()

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        with self._lock:
            if key not in self.objects:
                raise ArtifactNotFound(f"{key} is not in {self.uri}.", hint="`foundry runs list` shows what is there.", key=key)
            return self.objects[key][start : None if size is None else start + size]

    def download(self, key: str, path: Path) -> str:
        data = self.get(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def stat(self, key: str) -> ObjectInfo | None:
        with self._lock:
            if key not in self.objects:
                return None
            return ObjectInfo(key=key, size_bytes=len(self.objects[key]), modified_at_s=self._written[key])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for key in sorted(self.objects):
            info = self.stat(key) if key.startswith(prefix) else None
            if info is not None:
                yield info

    def delete(self, *keys: str) -> None:
        with self._lock:
            for key in keys:
                self.objects.pop(key, None)


class FailingStore:
    """Wraps a store and fails the next calls of a verb: `fail("put", times=2)`."""

    def __init__(self, inner: ArtifactStore) -> None:
        self._inner = inner
        self._failures: dict[str, int] = {}
        self.calls: list[tuple[str, str]] = []

    def fail(self, verb: str, *, times: int = 1) -> None:
        """The next `times` calls of `verb` raise StoreUnavailable."""
        self._failures[verb] = times

    @property
    def uri(self) -> str:
        return self._inner.uri

    def _meet(self, verb: str, key: str) -> None:
        self.calls.append((verb, key))
        if self._failures.get(verb, 0) > 0:
            self._failures[verb] -= 1
            raise StoreUnavailable(f"{self.uri} did not answer {verb} {key}.", hint="it is a test.", uri=self.uri)

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        self._meet("put", key)
        self._inner.put(key, source, if_absent=if_absent)

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        self._meet("get", key)
        return self._inner.get(key, start=start, size=size)

    def download(self, key: str, path: Path) -> str:
        self._meet("download", key)
        return self._inner.download(key, path)

    def stat(self, key: str) -> ObjectInfo | None:
        self._meet("stat", key)
        return self._inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._meet("list", prefix)
        return self._inner.list(prefix)

    def delete(self, *keys: str) -> None:
        self._meet("delete", " ".join(keys))
        self._inner.delete(*keys)


class Killed(BaseException):
    """What a process sees of its own end: nothing but a test catches it."""


class MortalStore:
    """A store as one process sees it, which can end at any of its operations; whatever it tries after that does not happen.

    Args:
        dies_at: Operations (put, get, list, ...) after which the process is dead; None where only `die` ends it.
        is_done: Whether the last of them still happens.
    """

    def __init__(self, inner: ArtifactStore, *, dies_at: int | None = None, is_done: bool = False) -> None:
        self._inner = inner
        self._dies_at = dies_at
        self._is_done = is_done
        self._is_dead = False
        self._lock = threading.RLock()
        self.num_operations = 0

    @property
    def uri(self) -> str:
        return self._inner.uri

    def die(self) -> None:
        """Nothing happens from now on."""
        with self._lock:
            self._is_dead = True

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        self._live(lambda: self._inner.put(key, source, if_absent=if_absent))

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        return self._live(lambda: self._inner.get(key, start=start, size=size))

    def download(self, key: str, path: Path) -> str:
        return self._live(lambda: self._inner.download(key, path))

    def stat(self, key: str) -> ObjectInfo | None:
        return self._live(lambda: self._inner.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(self._live(lambda: [*self._inner.list(prefix)]))

    def delete(self, *keys: str) -> None:
        self._live(lambda: self._inner.delete(*keys))

    def _live(self, act: Callable[[], T]) -> T:
        with self._lock:
            if self._is_dead:
                raise Killed
            self.num_operations += 1
            self._is_dead = self.num_operations == self._dies_at
            if self._is_dead and not self._is_done:
                raise Killed
            done = act()
            if self._is_dead:
                raise Killed
            return done
