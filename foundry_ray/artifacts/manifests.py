"""Artifacts: files bound to their hashes by a manifest that is written last, so that an artifact is whole or absent.

A file lies under `blobs/sha256/ab/<sha256>`, the manifest under `artifacts/<kind>/<sha256>.json`, named by the hash of kind, files and
meta: the same content has the same key, whoever publishes it and when. Every read is verified; bytes with another hash are never returned.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foundry_ray.artifacts.keys import check_key
from foundry_ray.errors import ArtifactCorrupt, Conflict, StoreError
from foundry_ray.protocols import ArtifactStore
from foundry_ray.types import FORMAT_VERSION, ArtifactRef, Json, canonical_bytes, canonical_sha256, from_json, to_json

_CHUNK_BYTES = 1 << 20
_MEND = "`--fresh STAGE` makes it again."


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobInfo:
    """One file of an artifact."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an artifact holds. `created_at` tells when it was first published and is not part of its identity."""

    kind: str
    files: Mapping[str, BlobInfo]
    meta: Json = None
    created_at: str = ""
    format_version: int = FORMAT_VERSION

    @property
    def sha256(self) -> str:
        """The identity: hash of kind, files and meta."""
        return canonical_sha256({"kind": self.kind, "files": to_json(self.files), "meta": self.meta})

    @property
    def size_bytes(self) -> int:
        return sum(blob.size_bytes for blob in self.files.values())


def publish(store: ArtifactStore, *, kind: str, files: Mapping[str, bytes | Path], meta: Json = None, created_at: str) -> ArtifactRef:
    """Store files and then the manifest that binds them. Publishing the same content again mends it and gives the same key.

    Args:
        store: Where to.
        kind: One word, the folder of the manifest ("model", "dataset").
        files: Contents, or files to read, by name; a name is a portable relative path.
        meta: Anything small that belongs to the artifact; part of its identity.
        created_at: ISO time, kept from the first publication.
    """
    for name in (kind, *files):
        check_key(name)
    blobs: dict[str, BlobInfo] = {}
    for name, source in files.items():
        blobs[name] = _describe(source)
        store.put(_blob_key(blobs[name].sha256), source)
    manifest = Manifest(kind=kind, files=blobs, meta=meta, created_at=created_at)
    key = f"artifacts/{kind}/{manifest.sha256}.json"
    return _ref(key, _commit(store, key, manifest))


def load_manifest(store: ArtifactStore, key: str) -> Manifest:
    """The manifest under `artifacts/...`, verified. Raises ArtifactNotFound or ArtifactCorrupt."""
    document = get_json(store, key)
    version = document.get("format_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise StoreError(f"{key} has format_version {version}, this foundry reads up to {FORMAT_VERSION}.", hint="`pip install -U foundry-ray`.")
    manifest = from_json(Manifest, document, what=key)
    expected = key.rpartition("/")[2].removesuffix(".json")
    if manifest.sha256 != expected:
        raise _corrupt(key, expected, manifest.sha256)
    for name in manifest.files:
        check_key(name)
    return manifest


def read_file(store: ArtifactStore, key: str, name: str) -> bytes:
    """One file of an artifact, verified. Raises ArtifactNotFound, ArtifactCorrupt, or StoreError for a name that it does not have."""
    blob = _blob(load_manifest(store, key), key, name)
    data = store.get(_blob_key(blob.sha256))
    actual = hashlib.sha256(data).hexdigest()
    if actual != blob.sha256:
        raise _corrupt(f"{key}:{name}", blob.sha256, actual)
    return data


def fetch(store: ArtifactStore, key: str, directory: Path) -> dict[str, Path]:
    """All files of an artifact into a folder, each verified before it appears; those already there are kept. Returns paths by name."""
    manifest = load_manifest(store, key)
    paths = {name: directory / name for name in manifest.files}
    for name, path in paths.items():
        blob = manifest.files[name]
        if not (path.is_file() and _describe(path) == blob):
            _fetch_one(store, blob, path, what=f"{key}:{name}")
    return paths


def put_json(store: ArtifactStore, key: str, value: Json, *, if_absent: bool = False) -> None:
    """Write a JSON value in its canonical form. With `if_absent`, raises Conflict where the object exists."""
    store.put(key, canonical_bytes(value), if_absent=if_absent)


def get_json(store: ArtifactStore, key: str) -> Json:
    """Read a JSON value. Raises ArtifactNotFound, or ArtifactCorrupt where the bytes are not JSON."""
    try:
        value: Json = json.loads(store.get(key))
    except ValueError as error:
        raise ArtifactCorrupt(f"{key} in {store.uri} is not JSON: {error}.", hint=_MEND, key=key) from error
    return value


def _commit(store: ArtifactStore, key: str, manifest: Manifest) -> Manifest:
    try:
        put_json(store, key, to_json(manifest), if_absent=True)
    except Conflict:
        try:
            return load_manifest(store, key)
        except ArtifactCorrupt:
            put_json(store, key, to_json(manifest))
    return manifest


def _ref(key: str, manifest: Manifest) -> ArtifactRef:
    return ArtifactRef(key=key, kind=manifest.kind, sha256=manifest.sha256, size_bytes=manifest.size_bytes, created_at=manifest.created_at)


def _blob(manifest: Manifest, key: str, name: str) -> BlobInfo:
    if name not in manifest.files:
        raise StoreError(f"{key} has no file {name!r}, it has {', '.join(sorted(manifest.files))}.", hint="name one of them.")
    return manifest.files[name]


def _fetch_one(store: ArtifactStore, blob: BlobInfo, path: Path, *, what: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unverified = path.with_name(f"~{uuid.uuid4().hex}")
    try:
        store.download(_blob_key(blob.sha256), unverified)
        actual = _describe(unverified).sha256
        if actual != blob.sha256:
            raise _corrupt(what, blob.sha256, actual)
        unverified.replace(path)
    finally:
        unverified.unlink(missing_ok=True)


def _describe(source: bytes | Path) -> BlobInfo:
    if isinstance(source, bytes):
        return BlobInfo(sha256=hashlib.sha256(source).hexdigest(), size_bytes=len(source))
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return BlobInfo(sha256=digest.hexdigest(), size_bytes=size)


def _blob_key(sha256: str) -> str:
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def _corrupt(what: str, expected: str, actual: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"{what} has sha256 {actual[:12]}, wanted {expected[:12]}.", hint=_MEND, key=what, expected=expected, actual=actual)
