"""What lies in a store, and what each of its documents needs: one listing, and each document read once.

Decides: which objects are documents, how large and deep they may be, what each kind names. Leaves to others: what follows from it
(`verify` finds what is broken, `usage` who holds how much, `exporting` what belongs to a run).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from foundry_ray.artifacts.manifest import MANIFEST_VERSION, parse_manifest
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, StoreError
from foundry_ray.housekeeping.parallel import in_parallel
from foundry_ray.housekeeping.references import named_keys, named_stage_keys
from foundry_ray.protocols import ArtifactStore
from foundry_ray.registry import series
from foundry_ray.runlog import StageResult
from foundry_ray.training.checkpoint import layout
from foundry_ray.training.checkpoint.format1 import parse_checkpoint1
from foundry_ray.types import FORMAT_VERSION, Json, RunRecord, StageStatus, from_json, parse_json

MAX_DOCUMENT_BYTES = 64 << 20  # as a manifest; the result of a study with 10,000 trials has about 20 MB
_DOCUMENTS = re.compile(
    r"runs/[^/]+/record\.json|stages/.+\.json|artifacts/.+\.json|registry/.+|registry-names/.+|test_openings/.+\.json|latency/.+\.json"
    r"|checkpoints/[^/]+/[^/]+/[^/]+\.json|studies/[^/]+/(?:journal(?:-snapshots)?/.+|study\.json)"
)
_OF_A_STAGE = re.compile(r"(?:checkpoints|studies)/([0-9a-f]{32})/|stages/[^/]+/([0-9a-f]{32})\.json")
_NEWEST = {"artifacts": MANIFEST_VERSION, "registry": series.FORMAT, "checkpoints": layout.FORMAT}
_HINT = "`foundry store verify` says what it breaks and what mends it."
_FINISHED = (StageStatus.DONE, StageStatus.REUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """An object, or a stretch of one, that a document names. `size_bytes` is None where the document does not say."""

    key: str
    size_bytes: int | None = None
    sha256: str = ""
    start: int = 0
    is_part: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document without its content: what it needs, the stage keys whose folders belong to it, and what is wrong with it."""

    key: str
    needs: tuple[Need, ...] = ()
    stage_keys: frozenset[str] = frozenset()
    source: str = ""
    newer: int = 0
    fault: StoreError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A store as one listing shows it: sizes by key, documents by key, and the keys in the folders of each stage key."""

    sizes: Mapping[str, int]
    documents: Mapping[str, Document]
    folders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def named_by(self, document: Document) -> Iterator[str]:
        """The keys that a document needs, and those of the folders that belong to it."""
        yield from (need.key for need in document.needs)
        for stage_key in document.stage_keys:
            yield from self.folders.get(stage_key, ())

    def reached_from(self, roots: Iterable[str]) -> set[str]:
        """Everything that the roots need, themselves included, whether it is there or not."""
        found = set(roots)
        waiting = list(found)
        while waiting:
            document = self.documents.get(waiting.pop())
            fresh = {key for key in self.named_by(document) if key not in found} if document else set()
            found |= fresh
            waiting.extend(fresh)
        return found


def is_document(key: str) -> bool:
    """Whether the object holds JSON that says what the store knows (leases and progress come and go)."""
    return _DOCUMENTS.fullmatch(key) is not None


def read_contents(store: ArtifactStore, *, roots: Iterable[str] | None = None) -> Contents:
    """List the store, and read its documents: all, or those that the roots lead to."""
    sizes = {info.key: info.size_bytes for info in store.list("")}
    folders: dict[str, list[str]] = defaultdict(list)
    for key in sizes:
        found = _OF_A_STAGE.match(key)
        if found:
            folders[found[1] or found[2]].append(key)
    contents = Contents(sizes=sizes, documents={}, folders={name: tuple(keys) for name, keys in folders.items()})
    waiting = [key for key in (sizes if roots is None else roots) if is_document(key)]
    documents: dict[str, Document] = {}
    while waiting:
        for document in in_parallel(lambda key: read_document(store, key, sizes.get(key)), waiting):
            documents[document.key] = document
        named = {key for done in waiting for key in contents.named_by(documents[done])}
        waiting = sorted(key for key in named if key in sizes and key not in documents and is_document(key))
    return Contents(sizes=sizes, documents=documents, folders=contents.folders)


def read_document(store: ArtifactStore, key: str, size_bytes: int | None = None) -> Document:
    """A document and what it needs; one that cannot be read carries its fault. One that is gone needs nothing."""
    try:
        return parse_document(key, read_bytes(store, key, size_bytes))[0]
    except ArtifactNotFound:
        return Document(key=key)
    except ArtifactCorrupt as error:
        return Document(key=key, fault=error)


def read_bytes(store: ArtifactStore, key: str, size_bytes: int | None = None) -> bytes:
    """The bytes of a document. Raises ArtifactNotFound, or ArtifactCorrupt where there are more of them than a document has."""
    data = b"" if size_bytes is not None and size_bytes > MAX_DOCUMENT_BYTES else store.get(key, size=MAX_DOCUMENT_BYTES + 1)
    if max(len(data), size_bytes or 0) > MAX_DOCUMENT_BYTES:
        raise ArtifactCorrupt(f"{key} has {size_bytes or len(data)} bytes, a document has at most {MAX_DOCUMENT_BYTES}.", hint=_HINT, key=key)
    return data


def parse_document(key: str, data: bytes) -> tuple[Document, Json]:
    """What a document says, by its place in the store, and its value. One of a later foundry names what it names, and is not judged. Pure.

    Raises:
        ArtifactCorrupt: It has not the shape, or not the hash, that its key promises.
    """
    value = parse_json(data, what=key)
    if not isinstance(value, dict):
        raise ArtifactCorrupt(f"{key} holds {type(value).__name__}, wanted an object.", hint=_HINT, key=key)
    kind, version = key.partition("/")[0], value.get("format_version")
    if isinstance(version, int) and version > _NEWEST.get(kind, FORMAT_VERSION):
        return Document(key=key, newer=version, needs=_named(value), stage_keys=named_stage_keys(value)), value
    if kind == "artifacts":
        return _manifest(key, data), value
    if kind == "checkpoints":
        return _checkpoint(key, value), value
    if kind == "runs":
        return _run(key, value), value
    if kind == "stages":
        outputs = from_json(StageResult, value, what=key).outputs
        own = key.rpartition("/")[2].removesuffix(".json")
        return Document(key=key, needs=_named(value), stage_keys=named_stage_keys(outputs) | {own}), value
    if "/aliases/" in key:
        version_key = f"{key.partition('/aliases/')[0]}/versions/{_version(key, value):08d}"
        return Document(key=key, needs=(*_named(value), Need(key=version_key))), value
    return Document(key=key, needs=_named(value)), value


def _named(value: Json) -> tuple[Need, ...]:
    return tuple(Need(key=one) for one in sorted(named_keys(value)))


def _manifest(key: str, data: bytes) -> Document:
    manifest = parse_manifest(key, data)
    if manifest.kind != key.split("/")[1]:
        raise ArtifactCorrupt(f"{key} is the manifest of a {manifest.kind!r}.", hint=_HINT, key=key)
    blobs = (
        Need(key=blob.key, size_bytes=blob.size_bytes, sha256=blob.sha256, start=blob.offset, is_part=blob.pack is not None)
        for blob in manifest.files.values()
    )
    return Document(key=key, needs=(*blobs, *_named(manifest.meta)))


def _checkpoint(key: str, value: dict[str, Json]) -> Document:
    folder, _, name = key.rpartition("/")
    is_first = layout.is_first_format(folder.rpartition("/")[2])
    if name != layout.MANIFEST:
        if not is_first and layout.INDEX_NAME.fullmatch(name):
            layout.parse_index(key, value)
        return Document(key=key)  # what a part holds, the manifest says too
    files = (parse_checkpoint1 if is_first else layout.parse_checkpoint)(key, value).files
    needs = (Need(key=f"{folder}/{name}", size_bytes=file.size_bytes, sha256=file.sha256) for name, file in files.items())
    return Document(key=key, needs=tuple(needs))


def _run(key: str, value: dict[str, Json]) -> Document:
    record = from_json(RunRecord, value.get("record"), what=key)
    if record.run_id != key.split("/")[1]:
        raise ArtifactCorrupt(f"{key} is the record of {record.run_id!r}.", hint=_HINT, key=key)
    done = (f"stages/{stage.name}/{stage.key}.json" for stage in record.stages if stage.key and stage.status in _FINISHED)
    names = sorted({*named_keys(value), *done})
    return Document(key=key, needs=tuple(Need(key=one) for one in names), stage_keys=named_stage_keys(value), source=record.source)


def _version(key: str, value: Mapping[str, Json]) -> int:
    version = value.get("version")
    if not isinstance(version, int):
        raise ArtifactCorrupt(f"{key} points at the version {version!r}, wanted a number.", hint=_HINT, key=key)
    return version
