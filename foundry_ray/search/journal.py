"""The only truth of a study: numbered segments of events in the store, each created once.

    journal/00000041              one group of events, written whole or not at all, so a prefix of the events is always readable
    journal-snapshots/00000040    all events of the segments before 40, in one object; these segments may be gone

A driver that opens the journal takes the next number; whoever wrote before meets a Conflict at its next commit and stops. Where a driver would
write next, its successor's first segment lies; so those segments outlive a compaction, which deletes all others that a snapshot holds.

Events are committed in groups: `append` is memory, `commit` is one object. A thread of its own writes, so that a silent store holds up only what
must be durable before it happens.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass

from foundry_ray.errors import Conflict, StoreError
from foundry_ray.protocols import ArtifactStore
from foundry_ray.search import segments
from foundry_ray.search.events import Event
from foundry_ray.search.segments import Reading
from foundry_ray.types import canonical_bytes

COMPACT_AFTER = 512
"""Segments since the last snapshot, at least, that make the next one. From 4,096 on an eighth of all: the work stays linear in the events."""
_DELETED_AT_ONCE = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Group:
    """What one segment holds, and the objects that nobody needs once it is there."""

    events: tuple[bytes, ...]
    frees: tuple[str, ...]
    opens: bool


class Journal:
    """The events of one study under `prefix` (`studies/<study_key>/journal`). Used by one thread.

    Args:
        driver: Identity of this process, unique among all that ever open the journal.
        compact_after: See `COMPACT_AFTER`.
    """

    def __init__(self, store: ArtifactStore, prefix: str, *, driver: str, compact_after: int = COMPACT_AFTER) -> None:
        self._store = store
        self._prefix = prefix
        self._driver = driver
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._pending: list[bytes] = []
        self._frees: list[str] = []
        self._group: _Group | None = None
        self._writing: Future[None] | None = None
        self._writer = _Writer(store, prefix, driver, compact_after)

    def open(self, begin: Callable[[], Sequence[Event]] = tuple) -> list[Event]:
        """Read all events and take the journal over from whoever wrote before. Returns them, with what this call adds.

        Args:
            begin: What a study begins with: called where the journal is new, and written in its first segment.

        Raises:
            Conflict: Another driver took it at the same moment.
            ArtifactCorrupt: A segment is missing or unreadable.
        """
        reading = segments.read(self._store, self._prefix)
        self._writer.go_on_from(reading)
        at_s = max((event.at_s for event in reading.events), default=0.0)
        added = [Event(kind="open", driver=self._driver, at_s=at_s), *(() if reading.events else begin())]
        for event in added:
            self.append(event)
        self.commit()
        return [*reading.events, *added]

    def append(self, event: Event, *, frees: Sequence[str] = ()) -> None:
        """Add an event to the group that the next `commit` writes. What it `frees` is deleted after that."""
        self._pending.append(canonical_bytes(event.to_json()))
        self._frees += frees

    def commit(self, *, wait_s: float | None = None) -> bool:
        """Make all appended events durable.

        Args:
            wait_s: Longest wait; without end where absent. Writing goes on meanwhile, and the next call asks again.

        Returns:
            Whether they are.

        Raises:
            Conflict: Another driver owns the journal now; this one must not go on.
            StoreUnavailable: The store did not answer; nothing is lost, and the next call tries again.
        """
        while self._writing is not None or self._group is not None or self._pending:
            if self._writing is None:
                self._begin_writing()
            if not self._has_written(wait_s):
                return False
        return True

    def close(self) -> None:
        """Commit, and end the thread. Raises as `commit`."""
        try:
            self.commit()
        finally:
            self._pool.shutdown()

    def _begin_writing(self) -> None:
        """A group that was not acknowledged may be in the store all the same, so it is repeated as it was, before anything else."""
        if self._group is None:
            self._group = _Group(tuple(self._pending), tuple(self._frees), opens=not self._writer.has_written)
            self._pending, self._frees = [], []
        self._writing = self._pool.submit(self._writer.write, self._group)

    def _has_written(self, wait_s: float | None) -> bool:
        assert self._writing is not None
        if not wait_for([self._writing], timeout=wait_s).done:
            return False
        writing, self._writing = self._writing, None
        writing.result()
        self._group = None
        return True


class _Writer:
    """The writing side of a journal: one group at a time, in the journal's thread."""

    def __init__(self, store: ArtifactStore, prefix: str, driver: str, compact_after: int) -> None:
        self._store = store
        self._prefix = prefix
        self._driver = driver
        self._compact_after = compact_after
        self._next = 0
        self._snapshot = 0
        self._openings: list[int] = []
        self._tail: list[bytes] = []
        self._garbage: deque[str] = deque()
        self.has_written = False

    def go_on_from(self, reading: Reading) -> None:
        """What lies in the store."""
        self._next, self._snapshot, self._openings = reading.next, reading.snapshot, list(reading.openings)
        self._tail = [canonical_bytes(event.to_json()) for event in reading.tail]
        self._garbage.extend(reading.garbage)

    def write(self, group: _Group) -> None:
        """Write a group, then do some of the work that has time: delete what is not needed, compact. Raises Conflict, StoreUnavailable."""
        self._put(group)
        if group.opens:
            self._openings.append(self._next)
        self._next += 1
        self.has_written = True
        self._tail += group.events
        self._garbage += group.frees
        try:
            if self._next - self._snapshot >= max(self._compact_after, self._next // 8):
                self._compact()
            self._delete_some()
        except StoreError as error:  # the events are durable; this is tried again with the next group
            _log.warning("%s The journal is not tidied up now.", error.message)

    def _put(self, group: _Group) -> None:
        key = segments.key(self._prefix, self._next)
        data = segments.segment(group.events, driver=self._driver, number=self._next)
        try:
            self._store.put(key, data, if_absent=True)
        except Conflict as error:
            if self._store.get(key) != data:
                raise Conflict(
                    f"another process took over this study: {key} was written by somebody else.",
                    hint="let that one finish; the same command then continues its result.",
                    key=key,
                ) from error

    def _compact(self) -> None:
        """All events into one object, which is read back before anything that it holds is deleted."""
        earlier = segments.snapshot_events(self._store, self._prefix, self._snapshot)
        key, upto = segments.snapshot_key(self._prefix, self._next), self._next
        data = segments.snapshot([*earlier, *self._tail], number=upto, openings=self._openings)
        self._store.put(key, data)
        if self._store.get(key) != data:
            self._store.delete(key)
            _log.warning("%s was not stored as it was sent; the segments stay.", key)
            return
        self._garbage += [segments.key(self._prefix, one) for one in range(self._snapshot, upto) if one not in self._openings]
        self._garbage += [segments.snapshot_key(self._prefix, self._snapshot)] if self._snapshot else []
        self._snapshot, self._tail = upto, []

    def _delete_some(self) -> None:
        """A few at a time, so that no decision waits long behind it."""
        keys = [self._garbage[index] for index in range(min(_DELETED_AT_ONCE, len(self._garbage)))]
        if keys:
            self._store.delete(*keys)
        for _ in keys:
            self._garbage.popleft()
