"""The objects that a journal is made of, as bytes: segments and snapshots, and all events that they hold.

A reader needs no lock. It takes the newest snapshot and the segments from there on; where another process compacts the journal between the
listing and the reading, it looks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from foundry_ray.artifacts.threads import in_threads
from foundry_ray.documents import envelope
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound
from foundry_ray.protocols import ArtifactStore
from foundry_ray.search.events import Event, event_from_json
from foundry_ray.types import FORMAT_VERSION, Json, canonical_bytes, parse_json

_HINT = "`--fresh search` starts the study again."
_FEW = 16
_FIRST, _LAST = b'"events":[', b'],"format_version":'
"""What stands around the events of a snapshot; inside a string the quotes would be escaped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A journal as it was found.

    Attributes:
        events: All.
        tail: Those that no snapshot holds.
        next: Number of the segment after the last.
        snapshot: The segments before this number are in a snapshot.
        openings: Numbers of the segments with which drivers took the journal over.
        garbage: Keys of objects that a killed compaction left.
    """

    events: Sequence[Event]
    tail: Sequence[Event]
    next: int
    snapshot: int
    openings: Sequence[int]
    garbage: Sequence[str]


def key(prefix: str, number: int) -> str:
    """Where a segment lies."""
    return f"{prefix}/{number:08d}"


def snapshot_key(prefix: str, number: int) -> str:
    """Where the snapshot of the segments before `number` lies."""
    return f"{prefix}-snapshots/{number:08d}"


def segment(events: Sequence[bytes], *, driver: str, number: int) -> bytes:
    """A segment made of encoded events."""
    return _document({"format_version": FORMAT_VERSION, "driver": driver, "segment": number}, events)


def snapshot(events: Sequence[bytes], *, number: int, openings: Sequence[int]) -> bytes:
    """A snapshot made of encoded events."""
    return _document({"format_version": FORMAT_VERSION, "openings": list(openings), "segment": number}, events)


def read(store: ArtifactStore, prefix: str) -> Reading:
    """The whole journal; an empty one where there is none.

    Raises:
        ArtifactCorrupt: A segment is missing or unreadable.
    """
    known = _snapshots(store, prefix)
    while True:
        try:
            return _read(store, prefix, known)
        except (ArtifactCorrupt, ArtifactNotFound) as error:
            seen, known = known, _snapshots(store, prefix)
            if known == seen:
                if isinstance(error, ArtifactCorrupt):
                    raise
                raise ArtifactCorrupt(f"{error.message} The journal lacks it.", hint=_HINT) from error


def snapshot_events(store: ArtifactStore, prefix: str, number: int) -> list[bytes]:
    """The encoded events of a snapshot, in one piece; none where there is none.

    It was read when the journal was opened, or read back when it was written, so it is not parsed again: that would cost more than all else.

    Raises:
        ArtifactCorrupt: It is not as this process knew it.
    """
    if not number:
        return []
    name = snapshot_key(prefix, number)
    before, _, rest = store.get(name).partition(_FIRST)
    events, _, after = rest.rpartition(_LAST)
    if before != b"{" or not after:
        raise ArtifactCorrupt(f"{name} is no snapshot as foundry writes it.", hint=_HINT, key=name)
    return [events] if events else []


def _read(store: ArtifactStore, prefix: str, snapshots: Sequence[int]) -> Reading:
    """From the newest snapshot that can be read: one that was torn by a killed upload is nobody's only copy."""
    try:
        return _read_from(store, prefix, snapshots[-1] if snapshots else 0, snapshots)
    except ArtifactCorrupt:
        if not snapshots:
            raise
        try:
            return _read(store, prefix, snapshots[:-1])
        except (ArtifactCorrupt, ArtifactNotFound):
            pass
        raise


def _read_from(store: ArtifactStore, prefix: str, start: int, snapshots: Sequence[int]) -> Reading:
    document = _parsed(store, snapshot_key(prefix, start)) if start else {"events": [], "openings": []}
    earlier = _decoded(document, snapshot_key(prefix, start))
    openings = [int(cast(int, one)) for one in cast(list[Json], document["openings"])]
    listed = [info.key for info in store.list(f"{prefix}/")]
    later = [one for one in listed if one >= key(prefix, start)]
    for number, one in enumerate(later, start):
        if one != key(prefix, number):
            raise ArtifactCorrupt(f"the journal has {one}, wanted {key(prefix, number)}.", hint=f"a segment is missing; {_HINT}", key=one)
    groups = in_threads(lambda one: _decoded(_parsed(store, one), one), later, num_threads=1 if len(later) <= _FEW else 8)
    openings += [number for number, group in enumerate(groups, start) if group and group[0].kind == "open"]
    tail = [event for group in groups for event in group]
    kept = {key(prefix, number) for number in openings}
    garbage = [one for one in listed if one < key(prefix, start) and one not in kept]
    garbage += [snapshot_key(prefix, number) for number in snapshots if number < start]
    return Reading(events=[*earlier, *tail], tail=tail, next=start + len(later), snapshot=start, openings=openings, garbage=garbage)


def _snapshots(store: ArtifactStore, prefix: str) -> list[int]:
    names = (info.key.rpartition("/")[2] for info in store.list(f"{prefix}-snapshots/"))
    return sorted(int(name) for name in names if name.isdigit())


def _parsed(store: ArtifactStore, name: str) -> dict[str, Json]:
    document = envelope(parse_json(store.get(name), what=name, hint=_HINT), what=name)
    if not isinstance(document.get("events"), list):
        raise ArtifactCorrupt(f"{name} is no part of a journal: it has no list of events.", hint=_HINT, key=name)
    return document


def _events(document: dict[str, Json]) -> list[Json]:
    return cast(list[Json], document["events"])


def _decoded(document: dict[str, Json], name: str) -> list[Event]:
    try:
        return [event_from_json(one, what=name) for one in _events(document)]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactCorrupt(f"{name} is no segment of a journal: {error}.", hint=_HINT, key=name) from error


def _document(head: dict[str, Json], events: Sequence[bytes]) -> bytes:
    """Canonical JSON with the events in their place, which are encoded already."""
    return canonical_bytes({**head, "events": []}).replace(b'"events":[]', b'"events":[' + b",".join(events) + b"]", 1)
