"""What rank 0 does so that a checkpoint counts: see the parts of all ranks in the store, write the manifest, and look again.

A part is there when its index is, and the object that the index names, at its size. Who deletes leftovers deletes manifests first and last; so
however the two are interleaved, no manifest stays whose bytes are gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from foundry_ray.artifacts.manifests import put_json
from foundry_ray.artifacts.threads import in_threads
from foundry_ray.errors import ArtifactNotFound, StoreError, StoreUnavailable
from foundry_ray.protocols import ArtifactStore, Clock
from foundry_ray.training.checkpoint.layout import INDEX_NAME, MANIFEST, Checkpoint, FileInfo, Part, data_name, folder_of, index_name, parse_index
from foundry_ray.types import Json, parse_json, to_json

_FIRST_POLL_S = 0.02
_LONGEST_POLL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A checkpoint before its parts are known: all else that its manifest says."""

    stage_key: str
    step: int
    epoch: int
    world_size: int
    attempt: str
    document: Mapping[str, Json]
    meta: Mapping[str, Json]
    number: int = 0

    @property
    def folder(self) -> str:
        """Where its objects lie, with a slash at the end."""
        return folder_of(self.stage_key, self.step, self.attempt, self.number)


def await_parts(store: ArtifactStore, draft: Draft, may_wait: Callable[[], bool], *, clock: Clock) -> tuple[Part, ...]:
    """Look until the parts of all ranks are there. A store that does not answer for a while is asked again.

    Raises:
        StoreUnavailable: They were not there when there was no more waiting.
    """
    poll_s = _FIRST_POLL_S
    while True:
        is_last = not may_wait()
        try:
            parts = find_parts(store, draft.folder, draft.world_size)
            if parts is not None:
                return parts
            if is_last:
                raise _incomplete(store, draft)
        except StoreError as error:
            if is_last or not error.retryable:
                raise
        clock.sleep(poll_s)
        poll_s = min(2 * poll_s, _LONGEST_POLL_S)


def find_parts(store: ArtifactStore, folder: str, world_size: int) -> tuple[Part, ...] | None:
    """The parts of all ranks; None as long as one is not there whole."""
    sizes = {info.key.removeprefix(folder): info.size_bytes for info in store.list(folder)}
    if not all(index_name(rank) in sizes and data_name(rank) in sizes for rank in range(world_size)):
        return None
    try:
        parts = in_threads(partial(_part, store, folder), range(world_size))
    except ArtifactNotFound:
        return None
    return tuple(parts) if all(sizes[data_name(rank)] == part.data.size_bytes for rank, part in enumerate(parts)) else None


def commit(store: ArtifactStore, draft: Draft, parts: tuple[Part, ...], *, clock: Clock) -> Checkpoint:
    """Make a checkpoint count.

    Raises:
        StoreUnavailable: Its parts were deleted meanwhile; it does not count.
    """
    checkpoint = Checkpoint(
        stage_key=draft.stage_key,
        step=draft.step,
        epoch=draft.epoch,
        world_size=draft.world_size,
        attempt=draft.attempt,
        number=draft.number,
        created_at=datetime.fromtimestamp(clock.now_s(), UTC).isoformat(timespec="microseconds"),
        parts=parts,
        document=draft.document,
        meta=draft.meta,
    )
    key = checkpoint.folder + MANIFEST
    put_json(store, key, to_json(checkpoint))
    left = {info.key for info in store.list(checkpoint.folder)}
    if not all(checkpoint.folder + name(rank) in left for rank in range(draft.world_size) for name in (index_name, data_name)):
        store.delete(key)
        message = f"the parts of {key} were deleted while it was committed."
        raise StoreUnavailable(message, hint="another run trains under this key: `foundry runs list` shows it.", uri=store.uri)
    return checkpoint


def sweep(store: ArtifactStore, folder: str) -> None:
    """Delete a checkpoint, or what there is of one: its manifest first, and last what a late writer may have made of it."""
    manifest = folder + MANIFEST
    keys = [info.key for info in store.list(folder)]
    if keys:
        store.delete(manifest)
        store.delete(*(key for key in keys if key != manifest))
        store.delete(manifest)


def _part(store: ArtifactStore, folder: str, rank: int) -> Part:
    key = folder + index_name(rank)
    data = store.get(key)
    index = parse_index(key, parse_json(data, what=key))
    return Part(index=FileInfo(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)), data=index.data)


def _incomplete(store: ArtifactStore, draft: Draft) -> StoreUnavailable:
    found = {int(match[1]) for info in store.list(draft.folder) if (match := INDEX_NAME.fullmatch(info.key.removeprefix(draft.folder)))}
    missing = ", ".join(str(rank) for rank in range(draft.world_size) if rank not in found) or "none, but not whole"
    message = f"the parts of {draft.world_size} ranks were wanted in {draft.folder}, missing: {missing}."
    return StoreUnavailable(
        message, hint="the warnings of those ranks say why; a longer wait is `teacher.checkpoint.commit_timeout_s`.", uri=store.uri
    )
