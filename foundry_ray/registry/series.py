"""A series of numbered objects, each created once and never changed: the number is the lock, and the series is the history.

Whoever writes number n + 1 has read number n, so that creating it is a compare-and-swap. Listing a folder is one request a thousand objects.
Every change carries a note: who made it, when and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from foundry_ray.artifacts.manifests import get_json, put_json
from foundry_ray.clock import utc
from foundry_ray.errors import ArtifactCorrupt, Conflict, OutOfRange, StoreError
from foundry_ray.protocols import ArtifactStore, Clock
from foundry_ray.types import Json, from_json

FORMAT = 2
"""Of versions and alias moves. 1 had no lineage and no reasons; what came later (tags, signatures) begins with 1."""
MAX_REASON = 500
_MAX_RACES = 100
_NUM_READERS = 8
_DIGITS = 8
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """`by` is user@host, `at` the ISO time of the clock of whoever changed it, `reason` free text of at most 500 characters."""

    by: str = "unknown"
    at: str = ""
    reason: str = ""


def write_note(clock: Clock, *, by: str = "unknown", reason: str = "") -> Note:
    """A note of this moment. Raises OutOfRange for a reason that is too long or holds control characters."""
    if len(reason) > MAX_REASON or not all(letter.isprintable() for letter in reason):
        got = f"{len(reason)} characters" if len(reason) > MAX_REASON else "control characters"
        message = f"the reason has {got}, wanted one line of at most {MAX_REASON} characters."
        raise OutOfRange(message, hint="put the rest where the reason can point at.", key="reason", value=reason[:40])
    return Note(by=by, at=utc(clock.now_s()), reason=reason)


def numbers(store: ArtifactStore, folder: str) -> list[int]:
    """The numbers that exist, ascending. One request a thousand objects."""
    return sorted(number for info in store.list(f"{folder}/") if (number := number_of(info.key)) is not None)


def number_of(key: str) -> int | None:
    """The number of a key that `key_of` could have made, or None: a stray object is no part of a series."""
    last = key.rpartition("/")[2]
    return int(last) if len(last) == _DIGITS and last.isascii() and last.isdigit() else None


def key_of(folder: str, number: int) -> str:
    """The key of an object of the series."""
    return f"{folder}/{number:0{_DIGITS}d}"


def create(store: ArtifactStore, folder: str, number: int, document: Json) -> None:
    """Write an object of the series. Raises Conflict where somebody else was first."""
    put_json(store, key_of(folder, number), document, if_absent=True)


def append(store: ArtifactStore, folder: str, next_document: Callable[[int], Json]) -> int:
    """Add an object, whatever others add meanwhile.

    Args:
        store: Where.
        folder: The series.
        next_document: Given the newest number (0: none), the document to add, or None where that one will do.

    Returns:
        The number of the document that was added, or of the one that will do.

    Raises:
        Conflict: Others were faster, a hundred times.
    """
    for _ in range(_MAX_RACES):
        newest = max(numbers(store, folder), default=0)
        document = next_document(newest)
        if document is None:
            return newest
        try:
            create(store, folder, newest + 1, document)
        except Conflict:
            continue
        return newest + 1
    raise Conflict(f"{folder} took no object in {_MAX_RACES} attempts: others were faster.", hint="repeat the command.", key=folder)


def read(store: ArtifactStore, key: str) -> dict[str, Json]:
    """An object as it is stored. Raises ArtifactNotFound, ArtifactCorrupt, or StoreError for one that a newer foundry wrote."""
    document = get_json(store, key)
    if not isinstance(document, dict):
        raise ArtifactCorrupt(f"{key} holds a {type(document).__name__}, wanted an object.", hint="`foundry store verify` checks the store.", key=key)
    version = document.get("format_version")
    if isinstance(version, int) and version > FORMAT:
        raise StoreError(f"{key} has format_version {version}, this foundry reads up to {FORMAT}.", hint="`pip install -U foundry-ray`.")
    return document


def load(kind: type[T], store: ArtifactStore, key: str) -> T:
    """An object as a value. Raises as `read`, and ArtifactCorrupt for another shape."""
    return from_json(kind, read(store, key), what=key)


def gather(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """`work` of each item, in order, several requests at a time. The first error ends it."""
    with ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="registry") as pool:
        return list(pool.map(work, items))
