"""Publishing: how files become an artifact that no collector of garbage takes away again.

    upload what is not there -> write the manifest -> look at the plans of collectors, and at every blob

A collector looks for needed objects twice, and the second time after it wrote `closed`. A manifest that was written before that is seen. One
that is written later sees `closed`, and where its own key or one of its blobs is a candidate, it is published again as the next generation,
under keys that no collector ever looked at. A blob that is missing is uploaded again. Only when a look finds nothing to do is the artifact
acknowledged. The manifest under a key says the same whoever writes it, so publishers of the same content cannot break each other's.

No create-only writes are needed: equal keys mean equal content.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from foundry_ray.artifacts import plans
from foundry_ray.artifacts.cache import uncached
from foundry_ray.artifacts.manifest import Manifest, check_files, load_manifest, manifest_bytes, manifest_key, reference
from foundry_ray.artifacts.packs import Piece, Source, arrange, pieces, write_pack
from foundry_ray.artifacts.threads import NUM_THREADS, in_threads
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, StoreError
from foundry_ray.protocols import ArtifactStore
from foundry_ray.types import ArtifactRef, Json

FRESHEN_S = 12 * 3600.0
"""Blobs older than this are written again when an artifact begins to need them, so that they do not look abandoned."""
_MAX_LOOKS = 10


def publish(
    store: ArtifactStore, *, kind: str, files: Mapping[str, Source], meta: Json = None, created_at: str, num_threads: int = NUM_THREADS
) -> ArtifactRef:
    """Store files and then the manifest that binds them. The same content gives the same artifact; publishing it again reads and mends it.

    Args:
        store: Where to.
        kind: One word, the folder of the manifest ("model", "dataset").
        files: Contents, or files to read, by name; a name is a portable relative path.
        meta: Anything small that belongs to the artifact; part of its identity.
        created_at: ISO time, kept from the first publication.
        num_threads: Requests at once.

    Raises:
        StoreError: Names or sizes that no artifact can have, a file that changes meanwhile, or collectors that do not come to an end.
    """
    check_files(kind, files)
    manifest = Manifest(kind=kind, files=arrange(files, num_threads=num_threads), meta=meta, created_at=created_at)
    sha256 = manifest.sha256
    for generation in range(_MAX_LOOKS):
        key = manifest_key(kind, sha256, generation)
        layout = {name: replace(blob, generation=generation) for name, blob in manifest.files.items()}
        ref = _Publication(store, key, replace(manifest, files=layout), files, num_threads).carry_out()
        if ref is not None:
            return ref
    raise _endless(manifest_key(kind, sha256))


@dataclass(frozen=True)
class _Publication:
    """One attempt to publish, under the keys of one generation."""

    store: ArtifactStore
    key: str
    wanted: Manifest
    files: Mapping[str, Source]
    num_threads: int

    def carry_out(self) -> ArtifactRef | None:
        """The acknowledged artifact; None where a collector may delete what lies under these keys."""
        known, is_new = self._known()
        manifest = _adopted(self.wanted, known)
        document = manifest_bytes(manifest)
        wanted = pieces(manifest.files, self.files)
        missing = self._lacking(wanted, self._is_there if is_new else self._is_sound)
        for _ in range(_MAX_LOOKS):
            in_threads(self._upload, missing, num_threads=self.num_threads)
            self.store.put(self.key, document)
            written = self.store.stat(self.key)
            if written is None or plans.marked_keys(self.store, now_s=written.modified_at_s) & {self.key, *(piece.key for piece in wanted)}:
                return None
            missing = self._lacking(wanted, partial(self._is_there, since_s=written.modified_at_s - FRESHEN_S))
            if not missing:
                return reference(self.key, manifest)
        raise _endless(self.key)

    def _known(self) -> tuple[Manifest | None, bool]:
        """What lies under the key, where it can be read; and whether nothing does."""
        if self.store.stat(self.key) is None:
            return None, True
        try:
            return load_manifest(self.store, self.key), False
        except (ArtifactNotFound, ArtifactCorrupt):
            return None, False

    def _lacking(self, wanted: Sequence[Piece], is_good: Callable[[Piece], bool]) -> list[Piece]:
        return [piece for piece, good in zip(wanted, in_threads(is_good, wanted, num_threads=self.num_threads), strict=True) if not good]

    def _is_there(self, piece: Piece, *, since_s: float = -math.inf) -> bool:
        info = self.store.stat(piece.key)
        return info is not None and info.size_bytes == piece.size_bytes and info.modified_at_s >= since_s

    def _is_sound(self, piece: Piece) -> bool:
        """An artifact is published again to mend it, so its bytes are read."""
        if not self._is_there(piece):
            return False
        with tempfile.TemporaryDirectory(prefix="foundry-verify-") as folder, suppress(ArtifactNotFound):
            return uncached(self.store).download(piece.key, Path(folder) / "blob") == piece.sha256
        return False

    def _upload(self, piece: Piece) -> None:
        if not piece.is_pack:
            self.store.put(piece.key, piece.parts[0][1])
            return
        with tempfile.TemporaryDirectory(prefix="foundry-pack-") as folder:
            path = Path(folder) / "pack"
            write_pack(piece, path)
            self.store.put(piece.key, path)


def _adopted(wanted: Manifest, known: Manifest | None) -> Manifest:
    """What to write. The first date stays; and so does the layout of an artifact from before there were packs, on which readers rely."""
    if known is None:
        return wanted
    is_loose = all(blob.pack is None for blob in known.files.values())
    return replace(wanted, created_at=known.created_at, files=known.files if is_loose else wanted.files)


def _endless(key: str) -> StoreError:
    message = f"{key} could not be published in {_MAX_LOOKS} attempts: what it needs is deleted again and again."
    return StoreError(message, hint="let `foundry store gc` come to its end, then repeat.")
