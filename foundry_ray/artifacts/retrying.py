"""Patience: wraps any store and repeats what failed for a passing reason, with exponential backoff, jitter and a budget.

Only errors marked `retryable` are repeated. A create-only write whose answer was lost looks like a conflict on the second attempt; it
counts as done where the object holds exactly our bytes.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from foundry_ray.errors import Conflict, StoreError, StoreUnavailable
from foundry_ray.protocols import ArtifactStore, Clock, ObjectInfo

T = TypeVar("T")
_log = logging.getLogger(__name__)
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0


class Retrying:
    """An ArtifactStore that outlasts short outages of `inner`.

    Args:
        inner: The store that does the work.
        clock: Gives the time and waits.
        budget_s: No attempt starts later than this after the first one (FOUNDRY_STORE_RETRY_S).
        revive: Called before each further attempt; may bring a dead server back.
        seed: Of the jitter (a wait is 50 to 100 % of its backoff); absent: another one every time, so that clients do not come back in step.
    """

    def __init__(
        self, inner: ArtifactStore, *, clock: Clock, budget_s: float, revive: Callable[[], None] | None = None, seed: int | None = None
    ) -> None:
        self.inner = inner
        self._clock = clock
        self._budget_s = budget_s
        self._revive = revive
        self._seed = seed

    @property
    def uri(self) -> str:
        return self.inner.uri

    def __repr__(self) -> str:
        return f"Retrying({self.inner!r})"

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        attempts = 0

        def write() -> None:
            nonlocal attempts
            attempts += 1
            try:
                self.inner.put(key, source, if_absent=if_absent)
            except Conflict:
                if attempts == 1 or not holds(self.inner, key, source):
                    raise

        self._call(write)

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        return self._call(lambda: self.inner.get(key, start=start, size=size))

    def download(self, key: str, path: Path) -> str:
        return self._call(lambda: self.inner.download(key, path))

    def stat(self, key: str) -> ObjectInfo | None:
        return self._call(lambda: self.inner.stat(key))

    def delete(self, *keys: str) -> None:
        self._call(lambda: self.inner.delete(*keys))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        last = ""
        listing = self._call(lambda: self.inner.list(prefix))

        def advance() -> ObjectInfo | None:
            nonlocal listing
            try:
                return next((info for info in listing if info.key > last), None)
            except StoreError:
                listing = self.inner.list(prefix)
                raise

        while (info := self._call(advance)) is not None:
            last = info.key
            yield info

    def _call(self, action: Callable[[], T]) -> T:
        started_s = self._clock.monotonic_s()
        attempt, jitter = 1, None
        while True:
            try:
                return action()
            except StoreError as error:
                if not error.retryable:
                    raise
                spent_s = self._clock.monotonic_s() - started_s
                jitter = jitter or random.Random(self._seed)
                wait_s = jitter.uniform(0.5, 1.0) * min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(attempt, 16))
                if spent_s + wait_s > self._budget_s:
                    raise self._exhausted(error, attempt, spent_s) from error
                if attempt == 1:
                    _log.warning("%s Trying again for up to %.0f s.", error.message, self._budget_s)
            self._clock.sleep(wait_s)
            attempt += 1
            self._try_revive()

    def _try_revive(self) -> None:
        if self._revive is None:
            return
        try:
            self._revive()
        except StoreUnavailable as error:
            _log.warning("%s", error.message)

    def _exhausted(self, error: StoreError, attempts: int, spent_s: float) -> StoreUnavailable:
        message = f"{error.message} Gave up after {attempts} attempts in {spent_s:.1f} s; FOUNDRY_STORE_RETRY_S allows {self._budget_s:g} s."
        return StoreUnavailable(message, hint=error.hint, uri=self.uri)


def holds(store: ArtifactStore, key: str, source: bytes | Path) -> bool:
    """Whether the object under `key` has exactly the bytes of `source`."""
    wanted = source if isinstance(source, bytes) else source.read_bytes()
    return store.stat(key) is not None and store.get(key) == wanted
