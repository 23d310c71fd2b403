"""Which checkpoints of a run a retention keeps, for its export. Unfinished work keeps all that it could go on from."""

from __future__ import annotations

from collections.abc import Iterator

from foundry_ray.config import RetentionConfig
from foundry_ray.housekeeping.belongings import Belongings
from foundry_ray.protocols import ArtifactStore
from foundry_ray.training.checkpoint import layout


def kept_checkpoints(store: ArtifactStore, found: Belongings, retention: RetentionConfig) -> Iterator[tuple[str, int]]:
    """Keys and sizes of committed checkpoints of stages and of trials, in key order."""
    finished = {key.rpartition("/")[2].removesuffix(".json") for key in found.documents if key.startswith("stages/")}
    for stage_key in sorted(found.stage_keys):
        sizes = {info.key: info.size_bytes for info in store.list(layout.stage_folder(stage_key))}
        whole = layout.committed_keys(sizes)
        if stage_key in finished and retention.checkpoints != "all":
            whole = whole[-1:] if retention.checkpoints == "last" else []
        yield from ((key, sizes[key]) for key in sorted(key for keys in whole for key in keys))
    yield from _trials(store, found, retention)


def _trials(store: ArtifactStore, found: Belongings, retention: RetentionConfig) -> Iterator[tuple[str, int]]:
    """The checkpoints that the result of a finished study names and its retention keeps, as far as they are there."""
    for key, document in sorted(found.documents.items()):
        if key.startswith("stages/search/") and retention.trials != "none":
            named = sorted(need.key for need in document.needs if "/trials/" in need.key)
            kept = named if retention.trials == "all" else [one for one in named if one in found.front]
            yield from ((info.key, info.size_bytes) for one in kept if (info := store.stat(one)) is not None)
