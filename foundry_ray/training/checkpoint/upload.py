"""One rank's part on its way into the store: hash the blocks, put the object, and then the index that names it."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import replace

from foundry_ray.errors import StoreError, StoreUnavailable
from foundry_ray.protocols import ArtifactStore
from foundry_ray.training.checkpoint.buffer import HostBuffer
from foundry_ray.training.checkpoint.layout import FileInfo, Index, data_name, index_name
from foundry_ray.training.checkpoint.plan import Plan
from foundry_ray.types import canonical_bytes, to_json


def upload(store: ArtifactStore, folder: str, rank: int, layout: Plan, buffer: HostBuffer) -> None:
    """Store what the buffer holds, as a rank's part of the checkpoint in `folder`.

    Raises:
        StoreError: The store did not take it.
        StoreUnavailable: This machine's disk is full, where the store needs a file of it.
    """
    index = _index(layout, buffer)
    try:
        with buffer.path() as path:
            store.put(folder + data_name(rank), path)
    except OSError as error:
        raise StoreUnavailable(f"{error.strerror} while it was written on this machine.", hint="free space in TMPDIR.", uri=store.uri) from error
    store.put(folder + index_name(rank), canonical_bytes(to_json(index)))


def why_failed(error: StoreError, store: ArtifactStore) -> str:
    """What happened and what to do, as one or two sentences."""
    if _is_disk_full(error):
        return f"{error.message} Hint: free space in {store.uri}, or keep fewer: `teacher.checkpoint.keep_last`."
    return str(error)


def _index(layout: Plan, buffer: HostBuffer) -> Index:
    blocks = tuple(replace(block, sha256=_sha256(buffer, block.offset, block.size_bytes)) for block in layout.blocks)
    own = tuple(replace(tensor, sha256=_sha256(buffer, tensor.offset, tensor.size_bytes)) for tensor in layout.own)
    whole = FileInfo(sha256=_sha256(buffer, 0, layout.size_bytes), size_bytes=layout.size_bytes)
    return Index(data=whole, blocks=blocks, own=own)


def _sha256(buffer: HostBuffer, offset: int, size_bytes: int) -> str:
    return hashlib.sha256(buffer.view(offset, size_bytes)).hexdigest()


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False
