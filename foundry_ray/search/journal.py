"""The only truth of a study: numbered segments of events in the store, each created once.

A segment is written whole or not at all, so a prefix of the events is always readable. A second driver that opens the journal takes
the next number; the first one's next commit then meets a Conflict and stops. Events are committed in groups: `append` is memory,
`commit` is one object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from foundry_ray.documents import envelope
from foundry_ray.errors import ArtifactCorrupt, Conflict
from foundry_ray.protocols import ArtifactStore
from foundry_ray.search.events import Event, event_from_json
from foundry_ray.types import FORMAT_VERSION, Json, canonical_bytes, parse_json


class Journal:
    """The events of one study under `prefix` (`studies/<study_key>/journal`).

    Args:
        driver: Identity of this process, unique among all that ever open the journal.
    """

    def __init__(self, store: ArtifactStore, prefix: str, *, driver: str) -> None:
        self._store = store
        self._prefix = prefix
        self._driver = driver
        self._next = 0
        self._pending: list[Event] = []

    def open(self) -> list[Event]:
        """Read all events and take the journal over from whoever wrote before.

        Raises:
            Conflict: Another driver took it at the same moment.
            ArtifactCorrupt: A segment is missing or unreadable.
        """
        events = self._read()
        self.append(Event(kind="open", driver=self._driver))
        self.commit()
        return events

    def append(self, event: Event) -> None:
        """Add an event to the group that the next `commit` writes."""
        self._pending.append(event)

    def commit(self) -> None:
        """Make all appended events durable.

        Raises:
            Conflict: Another driver owns the journal now; this one must not go on.
        """
        if not self._pending:
            return
        key = self._key(self._next)
        data = self._encode(self._pending)
        try:
            self._store.put(key, data, if_absent=True)
        except Conflict as error:
            if self._store.get(key) != data:
                raise Conflict(
                    f"another process took over this study: {key} was written by somebody else.",
                    hint="let that one finish; the same command then continues its result.",
                    key=key,
                ) from error
        self._next += 1
        self._pending = []

    def _read(self) -> list[Event]:
        events: list[Event] = []
        for number, info in enumerate(self._store.list(f"{self._prefix}/")):
            if info.key != self._key(number):
                hint = "a segment is missing; `--fresh search` starts the study again."
                raise ArtifactCorrupt(f"the journal has {info.key}, wanted {self._key(number)}.", hint=hint, key=info.key)
            events += self._decode(self._store.get(info.key), info.key)
            self._next = number + 1
        return events

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number:08d}"

    def _encode(self, events: Sequence[Event]) -> bytes:
        return canonical_bytes(
            {"format_version": FORMAT_VERSION, "driver": self._driver, "segment": self._next, "events": [event.to_json() for event in events]}
        )

    def _decode(self, data: bytes, key: str) -> list[Event]:
        try:
            document = envelope(parse_json(data, what=key, hint="`--fresh search` starts the study again."), what=key)
            return [event_from_json(one, what=key) for one in cast(list[Json], document["events"])]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactCorrupt(f"{key} is no segment of a journal: {error}.", hint="`--fresh search` starts the study again.", key=key) from error
