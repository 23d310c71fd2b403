"""What lies in a store, and what each of its documents needs: one listing, and each document read once.

Decides: which objects are documents, how large and deep they may be, what each kind names. Leaves to others: what follows from it
(`verify` finds what is broken, `usage` who holds how much, `exporting` what belongs to a run).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from foundry_ray.artifacts.manifests import BlobInfo, Manifest
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, StoreError
from foundry_ray.housekeeping.parallel import in_parallel
from foundry_ray.housekeeping.references import named_keys, named_stage_keys
from foundry_ray.protocols import ArtifactStore
from foundry_ray.runlog import StageResult
from foundry_ray.training.checkpoint import Checkpoint
from foundry_ray.types import FORMAT_VERSION, Json, RunRecord, StageStatus, from_json, parse_json

MAX_DOCUMENT_BYTES = 64 << 20  # the result of a study with 10,000 trials has about 20 MB
_DOCUMENTS = re.compile(
    r"runs/[^/]+/record\.json|stages/.+\.json|artifacts/.+\.json|registry/.+|registry-names/.+|test_openings/.+\.json|latency/.+\.json"
    r"|checkpoints/[^/]+/[^/]+/[^/]+\.json|studies/[^/]+/journal/.+"
)
_FOLDERS = re.compile(r"(?:checkpoints|studies)/([0-9a-f]{32})/")
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


def read_contents(store: ArtifactStore, *, roots: Iterable[str] | None = None, progress: Callable[[int], None] | None = None) -> Contents:
    """List the store, and read its documents: all, or those that the roots lead to. `progress` is told how many are read."""
    sizes = {info.key: info.size_bytes for info in store.list("")}
    folders: dict[str, list[str]] = defaultdict(list)
    for key in sizes:
        folder = _FOLDERS.match(key)
        if folder:
            folders[folder.group(1)].append(key)
    contents = Contents(sizes=sizes, documents={}, folders={name: tuple(keys) for name, keys in folders.items()})
    waiting = [key for key in (sizes if roots is None else roots) if is_document(key)]
    documents: dict[str, Document] = {}
    while waiting:
        for document in in_parallel(lambda key: read_document(store, key, sizes.get(key)), waiting):
            documents[document.key] = document
            if progress is not None:
                progress(len(documents))
        named = {key for done in waiting for key in contents.named_by(documents[done])}
        waiting = sorted(key for key in named if key in sizes and key not in documents and is_document(key))
    return Contents(sizes=sizes, documents=documents, folders=contents.folders)


def read_document(store: ArtifactStore, key: str, size_bytes: int | None = None) -> Document:
    """A document and what it needs; one that cannot be read carries its fault. One that is gone needs nothing."""
    try:
        value = load(store, key, size_bytes)
        version = value.get("format_version") if isinstance(value, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            return Document(key=key, newer=version, needs=tuple(Need(key=one) for one in sorted(named_keys(value))))
        return described(key, value)
    except ArtifactNotFound:
        return Document(key=key)
    except ArtifactCorrupt as error:
        return Document(key=key, fault=error)


def load(store: ArtifactStore, key: str, size_bytes: int | None = None) -> Json:
    """The JSON value under a key. Raises ArtifactNotFound, or ArtifactCorrupt where it is none, too large or too deep."""
    data = b"" if size_bytes is not None and size_bytes > MAX_DOCUMENT_BYTES else store.get(key, size=MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES or (size_bytes or 0) > MAX_DOCUMENT_BYTES:
        raise ArtifactCorrupt(f"{key} has {size_bytes or len(data)} bytes, a document has at most {MAX_DOCUMENT_BYTES}.", key=key)
    return parse_json(data, what=key)


def described(key: str, value: Json) -> Document:
    """What a document of foundry's own says, by its place in the store. Raises ArtifactCorrupt for one of another shape. Pure."""
    kind = key.partition("/")[0]
    if kind == "artifacts":
        return _manifest(key, value)
    if kind == "checkpoints":
        return _checkpoint(key, value)
    if kind == "runs":
        return _run(key, value)
    if not isinstance(value, dict):
        raise ArtifactCorrupt(f"{key} holds {type(value).__name__}, wanted an object.", key=key)
    needs = [Need(key=one) for one in sorted(named_keys(value))]
    if kind == "stages":
        own = key.rpartition("/")[2].removesuffix(".json")
        outputs = from_json(StageResult, value, what=key).outputs
        return Document(key=key, needs=tuple(needs), stage_keys=named_stage_keys(outputs) | {own})
    if "/aliases/" in key:
        needs.append(Need(key=f"{key.partition('/aliases/')[0]}/versions/{_version(key, value):08d}"))
    return Document(key=key, needs=tuple(needs))


def _manifest(key: str, value: Json) -> Document:
    manifest = from_json(Manifest, value, what=key)
    expected = key.rpartition("/")[2].removesuffix(".json")
    if manifest.sha256 != expected:
        raise ArtifactCorrupt(f"{key} has sha256 {manifest.sha256[:12]}, wanted {expected[:12]}.", key=key, expected=expected, actual=manifest.sha256)
    blobs = (_blob(one) for one in manifest.files.values())
    return Document(key=key, needs=(*blobs, *(Need(key=one) for one in sorted(named_keys(manifest.meta)))))


def _blob(blob: BlobInfo) -> Need:
    return Need(key=f"blobs/sha256/{blob.sha256[:2]}/{blob.sha256}", size_bytes=blob.size_bytes, sha256=blob.sha256)


def _checkpoint(key: str, value: Json) -> Document:
    if not key.endswith("/manifest.json"):
        return Document(key=key)  # a part's list of files, which the manifest repeats
    folder = key.rpartition("/")[0]
    files = from_json(Checkpoint, value, what=key).files
    return Document(key=key, needs=tuple(Need(key=f"{folder}/{name}", size_bytes=one.size_bytes, sha256=one.sha256) for name, one in files.items()))


def _run(key: str, value: Json) -> Document:
    record = from_json(RunRecord, value.get("record") if isinstance(value, dict) else None, what=key)
    done = [f"stages/{stage.name}/{stage.key}.json" for stage in record.stages if stage.key and stage.status in _FINISHED]
    names = sorted({*named_keys(value), *done})
    return Document(key=key, needs=tuple(Need(key=one) for one in names), stage_keys=named_stage_keys(value), source=record.source)


def _version(key: str, value: Mapping[str, Json]) -> int:
    version = value.get("version")
    if not isinstance(version, int):
        raise ArtifactCorrupt(f"{key} points at the version {version!r}, wanted a number.", key=key)
    return version
