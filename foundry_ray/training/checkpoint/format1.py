"""Checkpoints as the first release wrote them: files of each rank under `checkpoints/<stage key>/<epoch:06d>/`, bound by a manifest.

They are verified, moved with their run and deleted like others. Training does not go on from them: what they hold is bound to one number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foundry_ray.artifacts.blobs import BlobInfo
from foundry_ray.artifacts.keys import check_key
from foundry_ray.errors import ArtifactCorrupt, StoreError
from foundry_ray.training.checkpoint.layout import MANIFEST, stage_folder
from foundry_ray.types import Json, from_json

_HINT = "`foundry store verify` says what it breaks and what mends it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint1:
    """A committed checkpoint after `epoch` whole epochs. `files` are named `rank-00000/<file>`."""

    stage_key: str
    epoch: int
    world_size: int
    files: Mapping[str, BlobInfo]
    meta: Json = None
    format_version: int = 1

    @property
    def folder(self) -> str:
        """Where its objects lie, with a slash at the end."""
        return f"{stage_folder(self.stage_key)}{self.epoch:06d}/"


def parse_checkpoint1(key: str, value: Json) -> Checkpoint1:
    """The manifest that lies under `key`.

    Raises:
        ArtifactCorrupt: It is none, or that of another place, or names a file that no store can hold.
        StoreError: A later foundry wrote it.
    """
    checkpoint = from_json(Checkpoint1, value, what=key)
    if key != checkpoint.folder + MANIFEST:
        raise ArtifactCorrupt(f"{key} is the checkpoint of another place ({checkpoint.folder}).", hint=_HINT, key=key)
    for name in checkpoint.files:
        try:
            check_key(checkpoint.folder + name)
        except StoreError as error:
            raise ArtifactCorrupt(f"{key} names a file that no store can hold: {error.message}", hint=_HINT, key=key) from error
    return checkpoint
