"""Where Ray Train keeps what it insists on writing while a group of workers trains. Nothing is ever resumed from it.

On one machine that is a folder. Where a cluster has other machines, each of them would write a folder of its own, under a path that may not
exist or not be allowed there, and nobody would clean it up: so there it is the store, which all workers reach.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from foundry_ray.protocols import ArtifactStore

_FOLDER = "ray-train"


class Scratch(Protocol):
    """A place for the folders of Ray Train's runs, each with the name of its run."""

    def storage(self) -> dict[str, Any]:
        """The fields of Ray's RunConfig that name the place."""

    def clear(self, prefix: str) -> None:
        """Remove the runs whose names begin so."""


def scratch_for(store: ArtifactStore, home: Path, *, is_here: bool) -> Scratch:
    """A folder of `home` where all workers are on this machine (`is_here`), else the store."""
    return _FolderScratch(folder=home / _FOLDER) if is_here else _StoreScratch(store=store)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FolderScratch:
    folder: Path

    def storage(self) -> dict[str, Any]:
        return {"storage_path": str(self.folder)}

    def clear(self, prefix: str) -> None:
        for left in self.folder.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoreScratch:
    store: ArtifactStore

    def storage(self) -> dict[str, Any]:
        from foundry_ray.artifacts.arrow import arrow_filesystem

        return {"storage_path": _FOLDER, "storage_filesystem": arrow_filesystem(self.store)}

    def clear(self, prefix: str) -> None:
        self.store.delete(*[info.key for info in self.store.list(f"{_FOLDER}/{prefix}")])
