"""Reads objects of any size in pieces, so that no object is ever in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from foundry_ray.protocols import ArtifactStore

_PIECE_BYTES = 8 << 20


def pieces(store: ArtifactStore, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
    """An object, or `size` bytes of it from `start` on, in pieces of 8 MiB; fewer bytes where it ends before. Raises ArtifactNotFound."""
    position, end = start, None if size is None else start + size
    while end is None or position < end:
        wanted = _PIECE_BYTES if end is None else min(_PIECE_BYTES, end - position)
        piece = store.get(key, start=position, size=wanted)
        if piece:
            yield piece
        position += len(piece)
        if len(piece) < wanted:
            return


def sha256_of(store: ArtifactStore, key: str, *, start: int = 0, size: int | None = None) -> str:
    """The sha256 (hex) of an object or of a stretch of it. Raises ArtifactNotFound."""
    digest = hashlib.sha256()
    for piece in pieces(store, key, start=start, size=size):
        digest.update(piece)
    return digest.hexdigest()
