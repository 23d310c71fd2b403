"""What a store still needs: everything that the records of runs, the registry and young documents lead to.

A document names objects by whole keys, and the folders of a stage by its key (`references`). The roots are the records of runs that have not
expired, all of the registry, and every result and artifact that is young: somebody may be about to name it. An unreadable document among
those that are needed ends the look with an error, because what it names cannot be known.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from foundry_ray.artifacts.threads import NUM_THREADS, in_threads
from foundry_ray.config import RetentionConfig
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, StoreError
from foundry_ray.housekeeping.contents import Document, parse_document, read_bytes
from foundry_ray.housekeeping.references import strings
from foundry_ray.protocols import ArtifactStore, ObjectInfo
from foundry_ray.types import Json, RunRecord, RunStatus, StudyResult, from_json

_DAY_S = 86_400.0
_RECORD = re.compile(r"runs/([^/]+)/record\.json")
_RESULT = re.compile(r"stages/[^/]+/([0-9a-f]{32})\.json")
_FOLLOWED = re.compile(r"artifacts/.+\.json|stages/.+\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What may go at all. Times are the store's.

    Attributes:
        cutoff_s: Objects that were written then or later stay.
        now_s: By which the age of run records is told.
    """

    retention: RetentionConfig
    cutoff_s: float
    now_s: float


@dataclass(slots=True, kw_only=True)
class Needed:
    """What the roots lead to: objects, stage keys whose folders belong to somebody, and what is known of the work behind them."""

    keys: set[str] = field(default_factory=set)
    stage_keys: set[str] = field(default_factory=set)
    records: list[RunRecord] = field(default_factory=list)
    studies: dict[str, list[StudyResult]] = field(default_factory=lambda: defaultdict(list))
    expired: set[str] = field(default_factory=set)


def find_needed(store: ArtifactStore, objects: Sequence[ObjectInfo], policy: Policy, *, num_threads: int = NUM_THREADS) -> Needed:
    """Read what has to be read, and follow it.

    Args:
        store: The store; it is only read.
        objects: All that lies in it.
        policy: What counts as young, and how long records stay.
        num_threads: Requests at once.

    Raises:
        ArtifactCorrupt: A document among those that are needed is unreadable.
        StoreError: One of them is of a newer foundry.
    """
    return _Walk(store, objects, policy, num_threads).walk()


class _Walk:
    """From the roots on, all documents of one distance at a time."""

    def __init__(self, store: ArtifactStore, objects: Sequence[ObjectInfo], policy: Policy, num_threads: int) -> None:
        self._store = store
        self._infos = {info.key: info for info in objects}
        self._policy = policy
        self._num_threads = num_threads
        self._results = results_by_stage_key(self._infos)
        self._needed = Needed()

    def walk(self) -> Needed:
        registry = self._read(key for key in self._infos if key.startswith("registry/"))
        records = self._read(key for key in self._infos if _RECORD.fullmatch(key))
        kept = self._unexpired(records, {text for _, value in registry for text in strings(value)})
        young = [key for key, info in self._infos.items() if info.modified_at_s >= self._policy.cutoff_s and _FOLLOWED.fullmatch(key)]
        self._needed.keys.update(young)
        frontier = [*registry, *kept, *self._read(young)]
        while frontier:
            frontier = self._read({key for document, value in frontier for key in self._follow(document, value)})
        return self._needed

    def _unexpired(self, records: Iterable[tuple[Document, Json]], registered: Collection[str]) -> list[tuple[Document, Json]]:
        kept = []
        for document, value in records:
            record = from_json(RunRecord, value.get("record") if isinstance(value, dict) else None, what=document.key)
            if self._is_expired(document.key, record) and record.run_id not in registered:
                self._needed.expired.add(record.run_id)
            else:
                self._needed.records.append(record)
                kept.append((document, value))
        return kept

    def _is_expired(self, key: str, record: RunRecord) -> bool:
        """A run that was killed says that it is running; it stays until it is resumed, or deleted by name."""
        days = self._policy.retention.runs_days
        return days is not None and record.status is not RunStatus.RUNNING and self._policy.now_s - self._infos[key].modified_at_s >= days * _DAY_S

    def _follow(self, document: Document, value: Json) -> list[str]:
        """What a needed document names; returns the documents among it that were not needed so far."""
        needed = self._needed
        if document.key.startswith("stages/search/") and isinstance(value, dict):
            study = from_json(StudyResult, value.get("outputs"), what=document.key)
            needed.studies[study.study_key].append(study)
        needed.keys.add(document.key)
        needed.stage_keys |= document.stage_keys
        named = {need.key for need in document.needs}.union(*(self._results.get(one, ()) for one in document.stage_keys))
        fresh = {key for key in named - needed.keys if key in self._infos}
        needed.keys |= fresh
        return [key for key in fresh if _FOLLOWED.fullmatch(key)]

    def _read(self, keys: Iterable[str]) -> list[tuple[Document, Json]]:
        read = in_threads(partial(_readable, self._store), sorted(keys), num_threads=self._num_threads)
        return [found for found in read if found is not None]


def results_by_stage_key(keys: Iterable[str]) -> Mapping[str, list[str]]:
    """The keys of the results of finished stages, by stage key."""
    found: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        match = _RESULT.fullmatch(key)
        if match:
            found[match[1]].append(key)
    return found


def _readable(store: ArtifactStore, key: str) -> tuple[Document, Json] | None:
    """A document; None where it was deleted since it was listed."""
    hint = f"`foundry store verify` says what it breaks. Mend or delete {key}, then collect again."
    try:
        document, value = parse_document(key, read_bytes(store, key))
    except ArtifactNotFound:
        return None
    except ArtifactCorrupt as error:
        message = f"{key} cannot be read, so it is not known what it needs, and nothing is deleted: {error.message}"
        raise ArtifactCorrupt(message, hint=hint, key=key) from error
    if document.newer:
        message = f"{key} has format_version {document.newer}, which this foundry does not know, so nothing is deleted."
        raise StoreError(message, hint="`pip install -U foundry-ray`, then collect again.")
    return document, value
