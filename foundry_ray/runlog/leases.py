"""Leases: one holder works on a stage key at a time, and a dead holder is replaced.

A claim is a numbered object that is created once; its number is the fencing number. The holder's heartbeat changes a second
object. A waiter takes over when the heartbeat has stood still for `ttl_s` on the *waiter's* monotonic clock (no two clocks are
compared), or at once when it can see that the holder's process on this very machine is gone.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from foundry_ray.artifacts.manifests import get_json, put_json
from foundry_ray.errors import ArtifactNotFound, Conflict, StoreError
from foundry_ray.protocols import ArtifactStore, Clock, Reporter
from foundry_ray.types import FORMAT_VERSION, Json, from_json, to_json

_BEATS_PER_TTL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lease: the run, and the process in terms that another process of the same machine can check."""

    run_id: str
    machine: str
    pid: int
    started: str
    format_version: int = FORMAT_VERSION

    @classmethod
    def of_this_process(cls, run_id: str) -> Holder:
        return cls(run_id=run_id, machine=_machine(), pid=os.getpid(), started=_start_time(os.getpid()) or "")

    @property
    def is_certainly_gone(self) -> bool:
        """True only where the process can be looked up and is not there any more."""
        return self.machine == _machine() and bool(self.started) and _start_time(self.pid) != self.started


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    if not boot.exists() or not namespace.exists():
        return f"{socket.gethostname()}/unknown-{os.getpid()}"
    return f"{socket.gethostname()}/{boot.read_text().strip()}/{namespace.readlink()}"


def _start_time(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


class Lease:
    """A held lease. `check` raises Conflict once another holder has taken over."""

    def __init__(self, store: ArtifactStore, key: str, fence: int, *, ttl_s: float) -> None:
        self._store = store
        self._key = key
        self.fence = fence
        self._interval_s = ttl_s / _BEATS_PER_TTL
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_stopped, name=f"lease-{key[:8]}", daemon=True)
        self._thread.start()

    def _beat_until_stopped(self) -> None:
        count = 0
        while not self._stop.wait(self._interval_s):
            count += 1
            try:
                put_json(self._store, _object(self._key, self.fence, "beat"), count)
                if _latest_fence(self._store, self._key) != self.fence:
                    self._lost.set()
                    return
            except StoreError:
                continue  # an outage delays the beat; a taker-over is noticed at the next one that goes through

    def check(self) -> None:
        """Raises Conflict if the lease was lost: the work must not be committed."""
        if self._lost.is_set():
            raise Conflict(
                f"Another run took over the work on {self._key} while this one was silent.",
                hint="let it finish, then run again: it will be reused.",
                key=self._key,
            )

    def confirm(self) -> None:
        """As `check`, but asks the store now: for work that must not overlap by a heartbeat."""
        if _latest_fence(self._store, self._key) != self.fence:
            self._lost.set()
        self.check()

    def release(self) -> None:
        """Let the next one in: at once, or, where the store does not hear it, when the silence is noticed."""
        self._stop.set()
        self._thread.join(timeout=self._interval_s + 5)
        with suppress(StoreError):
            put_json(self._store, _object(self._key, self.fence, "done"), True)


def _object(key: str, fence: int, what: str) -> str:
    return f"leases/{key}/{fence:08d}.{what}"


def _latest_fence(store: ArtifactStore, key: str) -> int:
    return max((int(info.key.rpartition("/")[2][:8]) for info in store.list(f"leases/{key}/") if info.key.endswith(".claim")), default=0)


@contextmanager
def hold(
    store: ArtifactStore,
    key: str,
    *,
    run_id: str,
    ttl_s: float,
    wait_s: float,
    clock: Clock,
    reporter: Reporter,
    is_done: Callable[[], bool],
    what: str = "the same stage",
) -> Iterator[Lease | None]:
    """Hold the lease on `key`, or wait for whoever does. `what` is how users call the work.

    Yields:
        The lease; or None when `is_done` became true while waiting, so that there is nothing left to do.

    Raises:
        Conflict: The wait lasted longer than `wait_s`.
    """
    lease = _acquire(store, key, run_id=run_id, ttl_s=ttl_s, wait_s=wait_s, clock=clock, reporter=reporter, is_done=is_done, what=what)
    try:
        yield lease
    finally:
        if lease is not None:
            lease.release()


def _acquire(
    store: ArtifactStore,
    key: str,
    *,
    run_id: str,
    ttl_s: float,
    wait_s: float,
    clock: Clock,
    reporter: Reporter,
    is_done: Callable[[], bool],
    what: str,
) -> Lease | None:
    deadline_s = clock.monotonic_s() + wait_s
    watch = _Watch(ttl_s)
    is_announced = False
    while not is_done():
        fence = _latest_fence(store, key)
        blocker = _blocker(store, key, fence)
        if blocker is None or blocker.is_certainly_gone or watch.is_silent(fence, _beat(store, key, fence), clock.monotonic_s()):
            lease = _claim(store, key, fence + 1, run_id, ttl_s)
            if lease is not None:
                return lease
            continue
        if not is_announced:
            reporter.warn(f"run {blocker.run_id} is working on {what}; waiting for its result.")
            is_announced = True
        if clock.monotonic_s() > deadline_s:
            raise Conflict(
                f"Run {blocker.run_id} still works on {key} after {wait_s:g} s.", hint="raise `limits.lease_wait_s`, or end that run.", key=key
            )
        clock.sleep(min(0.5, ttl_s / _BEATS_PER_TTL))
    return None


def _claim(store: ArtifactStore, key: str, fence: int, run_id: str, ttl_s: float) -> Lease | None:
    try:
        put_json(store, _object(key, fence, "claim"), to_json(Holder.of_this_process(run_id)), if_absent=True)
    except Conflict:
        return None
    return Lease(store, key, fence, ttl_s=ttl_s)


def _blocker(store: ArtifactStore, key: str, fence: int) -> Holder | None:
    if fence == 0 or store.stat(_object(key, fence, "done")) is not None:
        return None
    path = _object(key, fence, "claim")
    try:
        return from_json(Holder, get_json(store, path), what=path)
    except ArtifactNotFound:
        return None  # given back long ago, and cleared away since it was listed


def _beat(store: ArtifactStore, key: str, fence: int) -> Json:
    try:
        return get_json(store, _object(key, fence, "beat"))
    except ArtifactNotFound:
        return None


class _Watch:
    """Notices a heartbeat that stands still, by the watcher's own clock."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._seen: tuple[int, Json] | None = None
        self._since_s = 0.0

    def is_silent(self, fence: int, beat: Json, now_s: float) -> bool:
        if self._seen != (fence, beat):
            self._seen, self._since_s = (fence, beat), now_s
        return now_s - self._since_s > self._ttl_s
