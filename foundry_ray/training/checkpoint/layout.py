"""What a checkpoint is made of, where its objects lie, and in which order checkpoints come. Documents and names only: no bytes, no torch.

    checkpoints/<stage key>/<step:09d>-<attempt>/rank-00000.bin     what a rank saved: raw little-endian tensors, one after another
    checkpoints/<stage key>/<step:09d>-<attempt>/rank-00000.json    its index: which elements of what lie where, with hashes
    checkpoints/<stage key>/<step:09d>-<attempt>/manifest.json      the commit point, written last: without it there is no checkpoint

An attempt (a group of workers) has a name that no other ever has, so that a part that a dead one left is never taken for a living one's.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from foundry_ray.errors import ArtifactCorrupt
from foundry_ray.types import Json, from_json

FORMAT = 2
PREFIX = "checkpoints"
MANIFEST = "manifest.json"
BLOCK_BYTES = 16 << 20
"""Most bytes under one hash: what a reader that needs a single element reads."""
FOLDER = r"\d{6}|\d{9}-[A-Za-z0-9._=-]+"
"""The name of a checkpoint's folder, as a regular expression: of the first format, or of this one."""
SINGLE = r"\d{6}-[0-9a-f]{32}\.(?:pt|safetensors)"
"""The name of a checkpoint that is one object: a trial's, or a student's. It begins with the epoch and holds the hash of its bytes."""
INDEX_NAME = re.compile(r"rank-(\d{5})\.json")
"""The name of a rank's index."""
ITEM_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("bool", "uint8", "int8"), 1),
    **dict.fromkeys(("int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "float32"), 4),
    **dict.fromkeys(("int64", "float64", "complex64"), 8),
}
"""Bytes of an element, by the name that torch gives its type."""
_FOLDER = re.compile(r"(?P<step>\d{9})-(?P<attempt>[A-Za-z0-9._=-]+)|(?P<epoch>\d{6})")
_MEMBER = re.compile(rf"{PREFIX}/[^/]+/(?:(?P<name>{FOLDER})/(?P<file>manifest\.json|rank-\d{{5}}.*)|(?P<single>{SINGLE}))")
_HINT = "an older checkpoint is used where there is one; else train anew: `--fresh STAGE`."


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """What an object must hold."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Elements of one slot of one parameter under a hash of their own: at most 16 MiB.

    Attributes:
        slot: "weights", "mean", "average", ... (`protocols.Fragment`).
        name: The parameter.
        start: Its first element in the flattened tensor.
        numel: How many elements.
        total: Elements of the whole tensor.
        dtype: As torch calls it: "float32".
        offset: Byte in the rank's object at which it begins.
        sha256: Of its bytes.
    """

    slot: str
    name: str
    start: int
    numel: int
    total: int
    dtype: str
    offset: int
    sha256: str

    @property
    def size_bytes(self) -> int:
        return self.numel * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTensor:
    """A whole tensor that is a rank's own: a buffer, a loss sum."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    sha256: str

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What one rank saved, and the object that holds it."""

    data: FileInfo
    blocks: tuple[Block, ...]
    own: tuple[OwnTensor, ...]
    format_version: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One rank's two objects."""

    index: FileInfo
    data: FileInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A committed checkpoint: the manifest itself.

    Attributes:
        stage_key: Whose it is.
        step: Optimizer steps done.
        epoch: Whole epochs done.
        world_size: Ranks that saved it.
        attempt: The group of workers that saved it.
        number: How often this attempt had saved this step before: at the end of an epoch, it may have just done so.
        created_at: When it was committed, ISO 8601 in UTC.
        parts: By rank.
        document: `LoopState.document`, equal on all ranks.
        meta: What the trainer adds.
    """

    stage_key: str
    step: int
    epoch: int
    world_size: int
    attempt: str
    created_at: str
    parts: tuple[Part, ...]
    document: Mapping[str, Json]
    meta: Mapping[str, Json]
    number: int = 0
    format_version: int = FORMAT

    @property
    def folder(self) -> str:
        """Where its objects lie, with a slash at the end."""
        return folder_of(self.stage_key, self.step, self.attempt, self.number)

    @property
    def files(self) -> dict[str, FileInfo]:
        """The objects of all ranks, by their names in the folder."""
        indices = {index_name(rank): part.index for rank, part in enumerate(self.parts)}
        return indices | {data_name(rank): part.data for rank, part in enumerate(self.parts)}

    @property
    def order(self) -> tuple[int, int, str]:
        """Sorts checkpoints of a stage: the last one holds the most work, and of equals is the newest."""
        return self.step, self.epoch, self.created_at


def stage_folder(stage_key: str) -> str:
    """Where the checkpoints of a stage lie, with a slash at the end."""
    return f"{PREFIX}/{stage_key}/"


def folder_of(stage_key: str, step: int, attempt: str, number: int = 0) -> str:
    """Where the objects of a checkpoint lie, with a slash at the end."""
    return f"{stage_folder(stage_key)}{step:09d}-{attempt}{f'.{number}' if number else ''}/"


def index_name(rank: int) -> str:
    """The name of a rank's index in its folder."""
    return f"rank-{rank:05d}.json"


def data_name(rank: int) -> str:
    """The name of the object with a rank's bytes in its folder."""
    return f"rank-{rank:05d}.bin"


def folder_order(name: str) -> tuple[int, int, str]:
    """Sorts the names of a stage's checkpoints, oldest first: by format, and epoch or step. `name` matches `FOLDER` or `SINGLE`."""
    match = _FOLDER.match(name)
    assert match is not None, name
    return (2, int(match["step"]), match["attempt"]) if match["step"] else (1, int(match["epoch"]), "")


def committed_keys(keys: Iterable[str]) -> list[list[str]]:
    """The keys of each committed checkpoint among those of one stage, oldest first."""
    found: dict[str, list[str]] = defaultdict(list)
    whole = set()
    for key in keys:
        match = _MEMBER.fullmatch(key)
        if match:
            name = match["name"] or match["single"]
            found[name].append(key)
            whole |= {name} if match["file"] in (None, MANIFEST) else set()
    return [found[name] for name in sorted(whole, key=folder_order)]


def is_first_format(folder_name: str) -> bool:
    """Whether a folder is one that the first release wrote."""
    return re.fullmatch(r"\d{6}", folder_name) is not None


def progress_key(stage_key: str) -> str:
    """Where a running stage tells how far it is. Not a checkpoint, and not durable knowledge."""
    return f"{stage_folder(stage_key)}progress.json"


def parse_checkpoint(key: str, value: Json) -> Checkpoint:
    """The manifest that lies under `key`.

    Raises:
        ArtifactCorrupt: It is none, or that of another place.
        StoreError: A later foundry wrote it.
    """
    checkpoint = from_json(Checkpoint, value, what=key)
    if key != checkpoint.folder + MANIFEST:
        raise ArtifactCorrupt(f"{key} is the checkpoint of another place ({checkpoint.folder}).", hint=_HINT, key=key)
    if len(checkpoint.parts) != checkpoint.world_size:
        message = f"{key} names {len(checkpoint.parts)} parts, wanted one of each of its {checkpoint.world_size} ranks."
        raise ArtifactCorrupt(message, hint=_HINT, key=key)
    return checkpoint


def parse_index(key: str, value: Json) -> Index:
    """The index that lies under `key`; its pieces lie within its object, and are of types that are known. Raises ArtifactCorrupt or StoreError."""
    index = from_json(Index, value, what=key)
    pieces: list[Block | OwnTensor] = [*index.blocks, *index.own]
    for piece in pieces:
        if piece.dtype not in ITEM_BYTES:
            raise ArtifactCorrupt(f"{key}: {piece.name} has the type {piece.dtype!r}, wanted one of {', '.join(ITEM_BYTES)}.", hint=_HINT, key=key)
        if not 0 <= piece.offset <= piece.offset + piece.size_bytes <= index.data.size_bytes:
            message = f"{key}: {piece.name} has {piece.size_bytes} bytes from {piece.offset} on, and its object {index.data.size_bytes}."
            raise ArtifactCorrupt(message, hint=_HINT, key=key)
    return index
