"""Durable checkpoints: each rank stores its part, and the manifest that binds them all is written last.

    checkpoints/<stage key>/<epoch>/rank-00000/<file>     the bytes
    checkpoints/<stage key>/<epoch>/rank-00000.json       what a rank stored, with hashes
    checkpoints/<stage key>/<epoch>/manifest.json         the commit point: without it there is no checkpoint

Decides: the layout, what counts as committed, what is deleted. Leaves to others: what is in the files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from foundry_ray.artifacts.blobs import BlobInfo, describe
from foundry_ray.artifacts.manifests import get_json, put_json
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound
from foundry_ray.protocols import ArtifactStore
from foundry_ray.types import FORMAT_VERSION, Json, from_json, to_json

PREFIX = "checkpoints"
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A committed checkpoint after `epoch` whole epochs. `files` are named `rank-00000/<file>`; `meta` is the writer's own."""

    stage_key: str
    epoch: int
    world_size: int
    files: Mapping[str, BlobInfo]
    meta: Json = None
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    files: Mapping[str, BlobInfo]
    format_version: int = FORMAT_VERSION


def save_checkpoint(store: ArtifactStore, stage_key: str, epoch: int, files: Mapping[str, bytes | Path], *, meta: Json = None) -> Checkpoint:
    """Store and commit the checkpoint of a single process."""
    put_part(store, stage_key, epoch, 0, files)
    return commit(store, stage_key, epoch, world_size=1, meta=meta)


def put_part(store: ArtifactStore, stage_key: str, epoch: int, rank: int, files: Mapping[str, bytes | Path]) -> None:
    """Store one rank's files. They count only once `commit` has run."""
    blobs: dict[str, BlobInfo] = {}
    for name, source in files.items():
        path = f"{_rank(rank)}/{name}"
        store.put(_folder(stage_key, epoch) + path, source)
        blobs[path] = describe(source)
    put_json(store, f"{_folder(stage_key, epoch)}{_rank(rank)}.json", to_json(_Part(files=blobs)))


def commit(store: ArtifactStore, stage_key: str, epoch: int, *, world_size: int, meta: Json = None) -> Checkpoint:
    """Bind the parts of all ranks, which must all be stored. One rank calls it, after a barrier."""
    files: dict[str, BlobInfo] = {}
    for rank in range(world_size):
        key = f"{_folder(stage_key, epoch)}{_rank(rank)}.json"
        files.update(from_json(_Part, get_json(store, key), what=key).files)
    checkpoint = Checkpoint(stage_key=stage_key, epoch=epoch, world_size=world_size, files=files, meta=meta)
    put_json(store, _folder(stage_key, epoch) + _MANIFEST, to_json(checkpoint))
    return checkpoint


def committed(store: ArtifactStore, stage_key: str) -> tuple[Checkpoint, ...]:
    """All committed checkpoints of a stage, oldest first."""
    keys = [info.key for info in store.list(f"{PREFIX}/{stage_key}/") if info.key.endswith(f"/{_MANIFEST}")]
    return tuple(from_json(Checkpoint, get_json(store, key), what=key) for key in keys)


def latest(store: ArtifactStore, stage_key: str) -> Checkpoint | None:
    """The newest committed checkpoint of a stage; half-written ones do not exist."""
    return max(committed(store, stage_key), key=lambda checkpoint: checkpoint.epoch, default=None)


def read(store: ArtifactStore, checkpoint: Checkpoint, name: str, *, rank: int = 0) -> bytes:
    """One file of one rank, verified. Raises ArtifactNotFound or ArtifactCorrupt."""
    path = f"{_rank(rank)}/{name}"
    key = _folder(checkpoint.stage_key, checkpoint.epoch) + path
    if path not in checkpoint.files:
        raise ArtifactNotFound(f"{key} is not part of its checkpoint.", hint="train again: `--fresh STAGE`.", key=key)
    data = store.get(key)
    _verify(key, checkpoint.files[path], describe(data).sha256)
    return data


def fetch(store: ArtifactStore, checkpoint: Checkpoint, directory: Path, *, ranks: Collection[int] | None = None) -> None:
    """The files of some ranks (all by default), merged into one directory and verified. Raises ArtifactNotFound or ArtifactCorrupt."""
    wanted = {_rank(rank) for rank in (range(checkpoint.world_size) if ranks is None else ranks)}
    for path, blob in checkpoint.files.items():
        rank, _, name = path.partition("/")
        if rank in wanted:
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            key = _folder(checkpoint.stage_key, checkpoint.epoch) + path
            _verify(key, blob, store.download(key, target))


def keep(store: ArtifactStore, stage_key: str, epochs: Collection[int]) -> None:
    """Delete all other epochs of a stage: each one's manifest first, so that none is ever committed and incomplete."""
    kept = {_folder(stage_key, epoch) for epoch in epochs}
    root = f"{PREFIX}/{stage_key}/"
    doomed = [info.key for info in store.list(root) if "/" in info.key.removeprefix(root) and not any(info.key.startswith(one) for one in kept)]
    for key in sorted(doomed, key=lambda key: not key.endswith(f"/{_MANIFEST}")):
        store.delete(key)


def progress_key(stage_key: str) -> str:
    """Where a running stage tells how far it is. Not a checkpoint, and not durable knowledge."""
    return f"{PREFIX}/{stage_key}/progress.json"


def _folder(stage_key: str, epoch: int) -> str:
    return f"{PREFIX}/{stage_key}/{epoch:06d}/"


def _rank(rank: int) -> str:
    return f"rank-{rank:05d}"


def _verify(key: str, expected: BlobInfo, actual: str) -> None:
    if actual != expected.sha256:
        message = f"{key} has sha256 {actual[:12]}, wanted {expected.sha256[:12]}."
        raise ArtifactCorrupt(message, hint="an older checkpoint is used where there is one.", key=key, expected=expected.sha256, actual=actual)
