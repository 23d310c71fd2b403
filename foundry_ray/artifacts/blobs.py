"""The bytes of artifacts: objects named by the hash of what they hold, and how such bytes are described and checked.

    blobs/sha256/ab/<sha256>                  generation 0
    blobs/sha256/ab/<sha256>.<generation>     the same bytes again, where a collector may still delete the generation before

A blob is a file, or a pack of small files that lie in it one after another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from foundry_ray.errors import ArtifactCorrupt

MEND = "`--fresh STAGE` makes it again."
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobInfo:
    """One file of an artifact: what it is, and where its bytes lie.

    Attributes:
        sha256: Of the file, in hex.
        generation: Of the blob that holds it.
        pack: The sha256 of the pack that holds it; None where the file is a blob of its own.
        offset: Where in the pack it begins, in bytes.
    """

    sha256: str
    size_bytes: int
    generation: int = 0
    pack: str | None = None
    offset: int = 0

    @property
    def key(self) -> str:
        """The key of the object that holds the bytes."""
        return blob_key(self.pack or self.sha256, self.generation)


def blob_key(sha256: str, generation: int = 0) -> str:
    """Where a blob lies."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}" + (f".{generation}" if generation else "")


def describe(source: bytes | Path) -> BlobInfo:
    """Hash and size of contents, or of a file, which is read in chunks."""
    if isinstance(source, bytes):
        return BlobInfo(sha256=hashlib.sha256(source).hexdigest(), size_bytes=len(source))
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return BlobInfo(sha256=digest.hexdigest(), size_bytes=size)


def corrupt(what: str, expected: str, actual: str) -> ArtifactCorrupt:
    """The error for bytes that are not the ones that were promised."""
    return ArtifactCorrupt(f"{what} has sha256 {actual[:12]}, wanted {expected[:12]}.", hint=MEND, key=what, expected=expected, actual=actual)
