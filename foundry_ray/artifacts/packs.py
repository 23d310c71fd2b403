"""Small files share blobs: an artifact with many of them would cost a request for each.

Decides: which files are packed, in which order, and so the layout of an artifact: a function of its files alone. Leaves to others: what is
uploaded when (publishing), and what of it is read (fetching).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from foundry_ray.artifacts.blobs import BlobInfo, describe
from foundry_ray.artifacts.threads import NUM_THREADS, in_threads
from foundry_ray.errors import StoreError

PACK_BYTES = 64 << 20
SMALL_BYTES = 1 << 20
MAX_LOOSE = 16  # so many small files are blobs of their own, which other artifacts may share
Source = bytes | Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One object to upload: a file, or the files of a pack in order, each with where it comes from."""

    sha256: str
    generation: int
    parts: tuple[tuple[BlobInfo, Source], ...]

    @property
    def key(self) -> str:
        return self.parts[0][0].key

    @property
    def size_bytes(self) -> int:
        return sum(blob.size_bytes for blob, _ in self.parts)

    @property
    def is_pack(self) -> bool:
        return self.parts[0][0].pack is not None


def arrange(files: Mapping[str, Source], *, num_threads: int = NUM_THREADS) -> dict[str, BlobInfo]:
    """Where each file goes, by name. Reads every file once; equal files lie in one place."""
    small = sorted(name for name, source in files.items() if _size(source) <= SMALL_BYTES)
    packed = _packed({name: files[name] for name in small}) if len(small) > MAX_LOOSE else {}
    loose = [name for name in files if name not in packed]
    described = dict(zip(loose, in_threads(lambda name: describe(files[name]), loose, num_threads=num_threads), strict=True))
    return {name: packed.get(name) or described[name] for name in files}


def pieces(layout: Mapping[str, BlobInfo], files: Mapping[str, Source]) -> list[Piece]:
    """The objects that a layout consists of."""
    parts: dict[str, dict[str, tuple[BlobInfo, Source]]] = {}
    for name, blob in layout.items():
        parts.setdefault(blob.key, {}).setdefault(blob.sha256, (blob, files[name]))
    return [_piece(tuple(sorted(one.values(), key=lambda part: (part[0].offset, part[0].size_bytes)))) for one in parts.values()]


def write_pack(piece: Piece, path: Path) -> None:
    """Put the files of a pack into one file. Raises StoreError where one of them is not what it was when it was hashed."""
    with path.open("xb") as stream:
        for blob, source in piece.parts:
            data = _read(source)
            if hashlib.sha256(data).hexdigest() != blob.sha256:
                raise StoreError(f"{source if isinstance(source, Path) else 'a file'} changed while it was published.", hint="repeat the command.")
            stream.write(data)


class _Packer:
    """Fills one pack after another with contents in the order in which they come. One content is in memory at a time."""

    def __init__(self) -> None:
        self._places: dict[str, BlobInfo] = {}
        self._open: list[BlobInfo] = []
        self._digest, self._size = hashlib.sha256(), 0

    def add(self, data: bytes) -> str:
        """Returns the sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in self._places:
            if self._size + len(data) > PACK_BYTES:
                self._close()
            self._places[sha256] = BlobInfo(sha256=sha256, size_bytes=len(data), offset=self._size)
            self._open.append(self._places[sha256])
            self._digest.update(data)
            self._size += len(data)
        return sha256

    def places(self) -> Mapping[str, BlobInfo]:
        """Where each content lies, by its sha256. Ends the last pack."""
        self._close()
        return self._places

    def _close(self) -> None:
        """A pack is named by its hash, which is known once it is full."""
        name = self._digest.hexdigest()
        self._places |= {blob.sha256: replace(blob, pack=name) for blob in self._open}
        self._open, self._digest, self._size = [], hashlib.sha256(), 0


def _packed(files: Mapping[str, Source]) -> dict[str, BlobInfo]:
    packer = _Packer()
    hashes = {name: packer.add(_read(source)) for name, source in files.items()}
    places = packer.places()
    return {name: places[sha256] for name, sha256 in hashes.items()}


def _piece(parts: tuple[tuple[BlobInfo, Source], ...]) -> Piece:
    first = parts[0][0]
    return Piece(sha256=first.pack or first.sha256, generation=first.generation, parts=parts)


def _size(source: Source) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _read(source: Source) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()
