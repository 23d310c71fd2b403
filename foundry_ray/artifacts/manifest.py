"""The document that makes files an artifact: what it says, what it is called, and which ones are refused.

    artifacts/<kind>/<sha256>.json                  generation 0
    artifacts/<kind>/<sha256>.<generation>.json     the same artifact again, where a collector may still delete the generation before

The name is the hash of kind, meta, and each file's name, hash and size: where the bytes lie (packs, generations) is not part of it.
Format 1 knew neither packs nor generations, and is read like format 2.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from foundry_ray.artifacts.blobs import MEND, BlobInfo, corrupt
from foundry_ray.artifacts.keys import check_key
from foundry_ray.artifacts.packs import PACK_BYTES
from foundry_ray.errors import ArtifactCorrupt, StoreError
from foundry_ray.protocols import ArtifactStore
from foundry_ray.types import ArtifactRef, Json, canonical_bytes, canonical_sha256, from_json, parse_json

MANIFEST_VERSION = 2
MAX_FILES = 1_000_000
MAX_MANIFEST_BYTES = 64 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an artifact holds. `created_at` tells when it was first published and is not part of its identity."""

    kind: str
    files: Mapping[str, BlobInfo]
    meta: Json = None
    created_at: str = ""
    format_version: int = MANIFEST_VERSION

    @property
    def sha256(self) -> str:
        """The identity: hash of kind, files and meta."""
        files: Json = {name: {"sha256": blob.sha256, "size_bytes": blob.size_bytes} for name, blob in self.files.items()}
        return canonical_sha256({"kind": self.kind, "files": files, "meta": self.meta})

    @property
    def size_bytes(self) -> int:
        return sum(blob.size_bytes for blob in self.files.values())

    def to_json(self) -> Json:
        """The document; fields of files that have their defaults are left out, of which there may be a million."""
        files: Json = {name: _file(blob) for name, blob in self.files.items()}
        return {"kind": self.kind, "files": files, "meta": self.meta, "created_at": self.created_at, "format_version": self.format_version}


def manifest_key(kind: str, sha256: str, generation: int = 0) -> str:
    """Where the manifest of an artifact lies."""
    return f"artifacts/{kind}/{sha256}" + (f".{generation}" if generation else "") + ".json"


def artifact_sha256(key: str) -> str:
    """The identity of the artifact whose manifest lies under this key."""
    return key.rpartition("/")[2].partition(".")[0]


def load_manifest(store: ArtifactStore, key: str) -> Manifest:
    """The manifest under `artifacts/...`, verified. Raises ArtifactNotFound, ArtifactCorrupt, or StoreError for one of a newer foundry."""
    info = store.stat(key)
    if info is not None and info.size_bytes > MAX_MANIFEST_BYTES:
        raise _refused(key, f"has {info.size_bytes} bytes, a manifest has at most {MAX_MANIFEST_BYTES}")
    return parse_manifest(key, store.get(key))


def parse_manifest(key: str, data: bytes) -> Manifest:
    """The manifest that these bytes are, verified against its name. Raises ArtifactCorrupt, or StoreError for one of a newer foundry."""
    manifest = from_json(Manifest, parse_json(data, what=key, hint=MEND), what=key)
    if len(manifest.files) > MAX_FILES:
        raise _refused(key, f"names {len(manifest.files)} files, an artifact has at most {MAX_FILES}")
    problem = _problem_of_names(manifest.files) or next(filter(None, (_problem_of(name, blob) for name, blob in manifest.files.items())), "")
    if problem:
        raise _refused(key, problem)
    if manifest.sha256 != artifact_sha256(key):
        raise corrupt(key, artifact_sha256(key), manifest.sha256)
    return manifest


def check_files(kind: str, names: Collection[str]) -> None:
    """Raises StoreError for names and numbers of files that no artifact can have."""
    for name in (kind, *names):
        check_key(name)
    problem = _problem_of_names(names) if len(names) <= MAX_FILES else f"has {len(names)} files, an artifact has at most {MAX_FILES}"
    if problem:
        raise StoreError(f"this {kind} cannot be published: it {problem}.", hint="choose other names, or put the files into archives.")


def manifest_bytes(manifest: Manifest) -> bytes:
    """The document as it is stored. Raises StoreError where it is larger than readers accept."""
    data = canonical_bytes(manifest.to_json())
    if len(data) > MAX_MANIFEST_BYTES:
        message = f"the manifest of this {manifest.kind} would have {len(data)} bytes for {len(manifest.files)} files, at most {MAX_MANIFEST_BYTES}."
        raise StoreError(message, hint="put the files into archives, or into several artifacts.")
    return data


def put_json(store: ArtifactStore, key: str, value: Json, *, if_absent: bool = False) -> None:
    """Write a JSON value in its canonical form. With `if_absent`, raises Conflict where the object exists."""
    store.put(key, canonical_bytes(value), if_absent=if_absent)


def get_json(store: ArtifactStore, key: str) -> Json:
    """Read a JSON value. Raises ArtifactNotFound, or ArtifactCorrupt where the bytes are not JSON."""
    return parse_json(store.get(key), what=f"{key} in {store.uri}", hint=MEND)


def reference(key: str, manifest: Manifest) -> ArtifactRef:
    """What others keep of an artifact."""
    return ArtifactRef(key=key, kind=manifest.kind, sha256=artifact_sha256(key), size_bytes=manifest.size_bytes, created_at=manifest.created_at)


def _file(blob: BlobInfo) -> dict[str, Json]:
    document: dict[str, Json] = {"sha256": blob.sha256, "size_bytes": blob.size_bytes}
    if blob.generation:
        document["generation"] = blob.generation
    if blob.pack is not None:
        document |= {"pack": blob.pack, "offset": blob.offset}
    return document


def _problem_of_names(names: Collection[str]) -> str:
    known = set(names)
    folders = {name.rpartition("/")[0] for name in known}
    while folders:
        both = folders & known
        if both:
            return f"names {min(both)!r} as a file and as a folder"
        folders = {folder.rpartition("/")[0] for folder in folders} - {""}
    return ""


def _problem_of(name: str, blob: BlobInfo) -> str:
    try:
        check_key(name)
    except StoreError as error:
        return f"names a file that is not portable: {error.message.rstrip('.')}"
    if not _SHA256.fullmatch(blob.sha256) or not (blob.pack is None or (isinstance(blob.pack, str) and _SHA256.fullmatch(blob.pack))):
        return f"gives {name} a hash that is none"
    if min(blob.size_bytes, blob.offset, blob.generation) < 0:
        return f"gives {name} a negative size, offset or generation"
    if blob.pack is not None and blob.offset + blob.size_bytes > PACK_BYTES:
        return f"places {name} beyond the end of a pack"
    return ""


def _refused(key: str, problem: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"{key} {problem}.", hint=MEND, key=key)
