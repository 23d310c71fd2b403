"""Writes a run into one file (`foundry runs export`): a first pass lists and hashes what belongs to it, a second one streams it.

Artifacts are written as what they are and not as where they lie: packed files become files again, and generations end. So equal runs give equal
files, whatever store they come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from foundry_ray.artifacts.blobs import blob_key
from foundry_ray.config import RetentionConfig
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, StoreError
from foundry_ray.housekeeping.archive import Listed, Listing, check_suffix, writing
from foundry_ray.housekeeping.belongings import Belongings, collect, plain, rank, renamed
from foundry_ray.housekeeping.contents import Document, Need, parse_document, read_bytes
from foundry_ray.housekeeping.parallel import in_parallel
from foundry_ray.housekeeping.retained import kept_checkpoints
from foundry_ray.housekeeping.stretches import pieces, sha256_of
from foundry_ray.protocols import ArtifactStore, Reporter
from foundry_ray.types import Json, canonical_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written. `size_bytes` is what the archive holds, `archive_bytes` what it takes."""

    run_id: str
    path: str
    num_objects: int
    size_bytes: int
    archive_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where the bytes of an object of the archive come from: a document as it is written there, or a stretch of an object."""

    listed: Listed
    need: Need
    is_document: bool


def export_run(store: ArtifactStore, run_id: str, path: Path, *, checkpoints: RetentionConfig | None = None, reporter: Reporter) -> Exported:
    """Write a run with all that belongs to it.

    Args:
        store: Where it is.
        run_id: Its whole id.
        path: A name that ends in .tar or .tar.gz; what is there is replaced when the archive is whole.
        checkpoints: Which checkpoints go along: those that this retention keeps; None: none.
        reporter: Told how far it is.

    Raises:
        ConfigError: The name says no known kind of archive, or the place cannot be written.
        ArtifactNotFound: Something that belongs to the run is not in the store.
        ArtifactCorrupt: Something is not what its hash says; no archive appears.
    """
    check_suffix(path)
    try:
        found = collect(run_id, lambda key: parse_document(key, read_bytes(store, key)), lambda folder: [info.key for info in store.list(folder)])
        sources = _sources(store, found, checkpoints)
        _write(store, run_id, path, sources, reporter)
    except (ArtifactNotFound, ArtifactCorrupt) as error:
        hint = f"`foundry store verify {run_id} --deep` says what is broken and what mends it; a run that goes on is exported when it has ended."
        raise type(error)(f"{run_id} cannot be exported: {error.message}", hint=hint, **error.facts) from error
    size = sum(source.listed.size_bytes for source in sources)
    return Exported(run_id=run_id, path=str(path), num_objects=len(sources), size_bytes=size, archive_bytes=path.stat().st_size)


def _write(store: ArtifactStore, run_id: str, path: Path, sources: list[_Source], reporter: Reporter) -> None:
    listing = Listing(run_id=run_id, objects=tuple(source.listed for source in sources))
    done = 0
    with writing(path, listing) as archive:
        for source in sources:
            archive.add(source.listed, _content(store, source))
            done += source.listed.size_bytes
            reporter.progress(done, max(1, listing.size_bytes), f"writing {path.name}")


def _sources(store: ArtifactStore, found: Belongings, checkpoints: RetentionConfig | None) -> list[_Source]:
    """Everything of the archive in its order: files before the artifacts that need them, and the record last."""
    sources: dict[str, _Source] = {}
    for key, document in sorted(found.documents.items(), key=lambda one: (rank(one[0]), one[0])):
        for need in sorted(document.needs, key=lambda need: need.sha256):
            if need.key.startswith("blobs/") and key.startswith("artifacts/"):
                listed = Listed(key=blob_key(need.sha256), sha256=need.sha256, size_bytes=need.size_bytes or 0)
                sources.setdefault(listed.key, _Source(listed=listed, need=need, is_document=False))
        data = _document_bytes(store, key, document.key)
        listed = Listed(key=key, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        sources[key] = _Source(listed=listed, need=Need(key=document.key), is_document=True)
    folders = [*_of_studies(store, found), *(kept_checkpoints(store, found, checkpoints) if checkpoints else ())]
    for source in in_parallel(lambda one: _folder_source(store, *one), folders):
        sources[source.listed.key] = source
    return [source for _, source in sorted(sources.items(), key=lambda one: rank(one[0]))]  # stable: files stay before their artifacts


def _of_studies(store: ArtifactStore, found: Belongings) -> Iterator[tuple[str, int]]:
    """What each study is of, and its journal."""
    for stage_key in sorted(found.stage_keys):
        for part in ("journal/", "journal-snapshots/", "study.json"):
            yield from ((info.key, info.size_bytes) for info in store.list(f"studies/{stage_key}/{part}"))


def _folder_source(store: ArtifactStore, key: str, size_bytes: int) -> _Source:
    listed = Listed(key=key, sha256=sha256_of(store, key), size_bytes=size_bytes)
    return _Source(listed=listed, need=Need(key=key, size_bytes=size_bytes), is_document=False)


def _content(store: ArtifactStore, source: _Source) -> Iterable[bytes]:
    if source.is_document:
        return [_document_bytes(store, source.listed.key, source.need.key)]
    return pieces(store, source.need.key, start=source.need.start, size=source.listed.size_bytes)


def _document_bytes(store: ArtifactStore, key: str, stored_key: str) -> bytes:
    """A document as the archive holds it: it names artifacts, and files, by what they are."""
    document, value = parse_document(stored_key, read_bytes(store, stored_key))
    _check_known(document)
    if key.startswith("artifacts/") and isinstance(value, dict):
        files = value["files"]
        assert isinstance(files, dict)
        return canonical_bytes({**value, "files": {name: _what(file) for name, file in files.items()}})
    if key.startswith("registry/") and isinstance(value, dict) and "after_move" in value:
        value = {**value, "after_move": None}  # its place in a history of the champion that stays behind
    return canonical_bytes(renamed(value, plain))


def _what(file: Json) -> Json:
    assert isinstance(file, dict)
    return {"sha256": file["sha256"], "size_bytes": file["size_bytes"]}


def _check_known(document: Document) -> None:
    if document.newer:
        raise StoreError(
            f"{document.key} has format_version {document.newer}, which this foundry does not know.", hint="`pip install -U foundry-ray`."
        )
