"""The form of an exported run: a plain tar, gzipped or not, whose first member lists all others with size and sha256.

The reader takes nothing but regular files, in exactly the order, of exactly the sizes and with exactly the hashes that the list says. So links,
devices, duplicates, extended headers, members that go on for ever and files that end early are refused where they stand, and reading costs
memory for one piece of 1 MiB and the list. Nothing is ever extracted by a member's name.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import tarfile
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from foundry_ray.artifacts.keys import check_key
from foundry_ray.errors import ArtifactCorrupt, ConfigError, OutOfRange, StoreError
from foundry_ray.types import canonical_bytes, from_json, parse_json, to_json

LIST_NAME = "foundry-export.json"
MAX_BYTES = 100 << 30
_FORMAT = 1
_MAX_LIST_BYTES = 32 << 20  # about 200,000 objects
_MAX_RATIO = 200  # weights hardly shrink and JSON about tenfold; zeros do a thousandfold
_FREE_BYTES = 64 << 20  # below this the ratio says nothing
_BLOCK_BYTES = tarfile.BLOCKSIZE
_PIECE_BYTES = 1 << 20
_NAME_BYTES = 100  # what fits a header without an extension
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
}
_HINT = "get the file again from where it came, or export the run again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One object of the archive."""

    key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What an archive holds, in the order in which it holds it."""

    run_id: str
    objects: tuple[Listed, ...]
    format_version: int = _FORMAT

    @property
    def size_bytes(self) -> int:
        return sum(one.size_bytes for one in self.objects)


def check_suffix(path: Path) -> None:
    """Raises ConfigError for a name that does not say `.tar` or `.tar.gz`."""
    if path.name.endswith(".tar.zst"):
        raise ConfigError(
            f"{path.name} asks for zstandard, which this Python's library does not have.", hint=f"write {path.name[:-4]}.gz or {path.name[:-4]}."
        )
    if not path.name.endswith((".tar", ".tar.gz")):
        raise ConfigError(f"{path.name} is no name of an archive, wanted .tar or .tar.gz at its end.", hint=f"for example {path.name}.tar.gz")


@contextmanager
def writing(path: Path, listing: Listing) -> Iterator[ArchiveWriter]:
    """An archive that appears under its name when all of it is written, or not at all. Equal contents give equal bytes."""
    check_suffix(path)
    temporary = path.with_name(f"~{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as raw, _compressing(raw, path) as stream:
            writer = ArchiveWriter(stream)
            data = canonical_bytes(to_json(listing))
            writer.add(Listed(key=LIST_NAME, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)), [data])
            yield writer
            stream.write(bytes(2 * _BLOCK_BYTES))
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}.", hint="choose another place.") from error
    finally:
        temporary.unlink(missing_ok=True)


class ArchiveWriter:
    """Adds objects one after the other."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def add(self, listed: Listed, pieces: Iterable[bytes]) -> None:
        """Write an object. Raises ArtifactCorrupt where its bytes are not those that were listed."""
        header = tarfile.TarInfo(_member_name(listed.key))
        header.size, header.mode = listed.size_bytes, 0o644
        self._stream.write(header.tobuf(tarfile.GNU_FORMAT))
        for piece in _checked(pieces, listed):
            self._stream.write(piece)
        self._stream.write(bytes(-listed.size_bytes % _BLOCK_BYTES))


class ArchiveReader:
    """Reads an archive from its beginning to its end, once."""

    def __init__(self, stream: IO[bytes], *, name: str, file_bytes: int, max_bytes: int) -> None:
        self._stream = stream
        self._name = name
        self.listing = self._read_listing()
        self._check_sizes(file_bytes, max_bytes)

    def objects(self) -> Iterator[tuple[Listed, Iterator[bytes]]]:
        """Each object with its pieces, whose size and hash are checked as they are read. Raises ArtifactCorrupt."""
        for listed in self.listing.objects:
            header = self._header()
            if header.name != _member_name(listed.key) or header.size != listed.size_bytes:
                message = (
                    f"{self._name} holds {header.name[:100]!r} ({header.size} bytes) where its list says {listed.key} ({listed.size_bytes} bytes)."
                )
                raise ArtifactCorrupt(message, hint=_HINT, key=listed.key)
            pieces = _checked(self._pieces(listed.size_bytes), listed)
            yield listed, pieces
            for _ in pieces:
                pass
            self._exactly(-listed.size_bytes % _BLOCK_BYTES)
        self._check_end()

    def _read_listing(self) -> Listing:
        header = self._header()
        if header.name != LIST_NAME or header.size > _MAX_LIST_BYTES:
            message = f"{self._name} begins with {header.name[:100]!r} of {header.size} bytes, wanted {LIST_NAME} of at most {_MAX_LIST_BYTES}."
            raise ArtifactCorrupt(message, hint="`foundry runs export RUN FILE` writes what can be imported.")
        value = parse_json(b"".join(self._pieces(header.size)), what=f"{self._name}: {LIST_NAME}", hint=_HINT)
        self._exactly(-header.size % _BLOCK_BYTES)
        version = value.get("format_version") if isinstance(value, dict) else None
        if isinstance(version, int) and version > _FORMAT:
            raise StoreError(f"{self._name} has format_version {version}, this foundry reads up to {_FORMAT}.", hint="`pip install -U foundry-ray`.")
        listing = from_json(Listing, value, what=f"{self._name}: {LIST_NAME}")
        _check_listing(listing, self._name)
        return listing

    def _check_sizes(self, file_bytes: int, max_bytes: int) -> None:
        size = self.listing.size_bytes
        if size > max_bytes:
            message = f"{self._name} holds {size} bytes, the limit is {max_bytes}."
            raise OutOfRange(message, hint=f"if you trust it: `--max-bytes {size}`.", key="max-bytes", value=max_bytes)
        if size > _FREE_BYTES + _MAX_RATIO * file_bytes:
            message = f"{self._name} has {file_bytes} bytes and says that it holds {size}, more than {_MAX_RATIO} times as many."
            raise ArtifactCorrupt(message, hint="if you trust it: `gunzip` it, and import the .tar.")

    def _header(self) -> tarfile.TarInfo:
        try:
            header = tarfile.TarInfo.frombuf(self._exactly(_BLOCK_BYTES), "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise ArtifactCorrupt(f"{self._name} is no tar file where a member should begin: {error}.", hint=_HINT) from error
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            kind = _KINDS.get(header.type, "a member with an extended header")
            raise ArtifactCorrupt(f"{self._name} holds {kind} ({header.name[:100]!r}), wanted regular files only.", hint=_HINT)
        return header

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size > 0:
            piece = self._exactly(min(size, _PIECE_BYTES))
            size -= len(piece)
            yield piece

    def _exactly(self, size: int) -> bytes:
        data = self._some(size)
        while len(data) < size:
            more = self._some(size - len(data))
            if not more:
                raise ArtifactCorrupt(f"{self._name} ends early.", hint=_HINT)
            data += more
        return data

    def _some(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except EOFError as error:
            raise ArtifactCorrupt(f"{self._name} ends early.", hint=_HINT) from error
        except (OSError, zlib.error) as error:
            raise ArtifactCorrupt(f"{self._name} cannot be read: {error}.", hint=_HINT) from error

    def _check_end(self) -> None:
        rest = self._some(2 * tarfile.RECORDSIZE)
        while len(rest) < 2 * tarfile.RECORDSIZE and (more := self._some(2 * tarfile.RECORDSIZE - len(rest))):
            rest += more
        if len(rest) < 2 * _BLOCK_BYTES:
            raise ArtifactCorrupt(f"{self._name} ends early.", hint=_HINT)
        if any(rest) or len(rest) == 2 * tarfile.RECORDSIZE:
            raise ArtifactCorrupt(f"{self._name} goes on after the last object of its list.", hint=_HINT)


@contextmanager
def reading(path: Path, *, max_bytes: int) -> Iterator[ArchiveReader]:
    """An archive, whose list is read and held against the limits.

    Raises:
        ConfigError: There is no such file, or it is of another kind.
        OutOfRange: It says that it holds more than `max_bytes`.
        ArtifactCorrupt: It is no archive of a run.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is no file.", hint="name a file that `foundry runs export` wrote.")
    try:
        raw = path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", hint="check its permissions.") from error
    with raw:
        begin = raw.read(4)
        raw.seek(0)
        if begin == b"\x28\xb5\x2f\xfd":
            raise ConfigError(f"{path.name} is compressed with zstandard, which this Python's library cannot read.", hint="`zstd -d` it first.")
        stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if begin[:2] == b"\x1f\x8b" else raw  # type: ignore[assignment]  # GzipFile reads like IO
        yield ArchiveReader(stream, name=path.name, file_bytes=path.stat().st_size, max_bytes=max_bytes)


def _check_listing(listing: Listing, name: str) -> None:
    seen: set[str] = set()
    for one in listing.objects:
        problem = "twice" if one.key in seen else "" if _is_possible(one) else "with a key, size or sha256 that none can have"
        if problem:
            raise ArtifactCorrupt(f"{name} lists {one.key[:100]!r} {problem}.", hint=_HINT, key=one.key)
        seen.add(one.key)
    for key in seen:
        folder = key.rpartition("/")[0]
        while folder:
            if folder in seen:
                raise ArtifactCorrupt(f"{name} lists {folder!r} as an object and as a folder.", hint=_HINT, key=folder)
            folder = folder.rpartition("/")[0]


def _is_possible(one: Listed) -> bool:
    try:
        check_key(one.key)
    except StoreError:
        return False
    return one.size_bytes >= 0 and _SHA256.fullmatch(one.sha256) is not None


def _checked(pieces: Iterable[bytes], listed: Listed) -> Iterator[bytes]:
    """The pieces, and ArtifactCorrupt at their end, or as soon as there are too many, where they are not the object that was listed."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
        if size > listed.size_bytes:
            break
        yield piece
    if size != listed.size_bytes:
        message = f"{listed.key} has {'more than ' * (size > listed.size_bytes)}{min(size, listed.size_bytes)} bytes, wanted {listed.size_bytes}."
        raise ArtifactCorrupt(message, hint=_HINT, key=listed.key)
    if digest.hexdigest() != listed.sha256:
        message = f"{listed.key} has sha256 {digest.hexdigest()[:12]}, wanted {listed.sha256[:12]}."
        raise ArtifactCorrupt(message, hint=_HINT, key=listed.key, expected=listed.sha256, actual=digest.hexdigest())


def _member_name(key: str) -> str:
    """The key itself where a header holds it, so that `tar tf` reads well."""
    return key if len(key) <= _NAME_BYTES else f"objects/{hashlib.sha256(key.encode()).hexdigest()}"


@contextmanager
def _compressing(raw: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if not path.name.endswith(".gz"):
        yield raw
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=1) as stream:  # weights hardly shrink: more effort is lost
        yield stream  # type: ignore[misc]  # GzipFile writes like IO
