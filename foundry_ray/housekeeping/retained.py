"""Which checkpoints of a run a retention keeps, for its export. Unfinished work keeps all that it could go on from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from foundry_ray.config import RetentionConfig
from foundry_ray.housekeeping.belongings import Belongings
from foundry_ray.protocols import ArtifactStore, ObjectInfo

_EPOCH = re.compile(r"checkpoints/[0-9a-f]{32}/(\d{6})(/manifest\.json|/rank-\d{5}.+|-[0-9a-f]{32}\.pt)")


def kept_checkpoints(store: ArtifactStore, found: Belongings, retention: RetentionConfig) -> Iterator[tuple[str, int]]:
    """Keys and sizes of committed checkpoints of stages and of trials, in key order."""
    finished = {key.rpartition("/")[2].removesuffix(".json") for key in found.documents if key.startswith("stages/")}
    for stage_key in sorted(found.stage_keys):
        epochs = _committed(store.list(f"checkpoints/{stage_key}/"))
        is_finished = stage_key in finished
        if is_finished and retention.checkpoints != "all":
            epochs = {max(epochs): epochs[max(epochs)]} if epochs and retention.checkpoints == "last" else {}
        for _, objects in sorted(epochs.items()):
            yield from ((info.key, info.size_bytes) for info in objects)
    yield from _trials(store, found, retention)


def _committed(objects: Iterator[ObjectInfo]) -> dict[str, list[ObjectInfo]]:
    """The objects of each epoch that is whole."""
    epochs: dict[str, list[ObjectInfo]] = defaultdict(list)
    committed: set[str] = set()
    for info in objects:
        match = _EPOCH.fullmatch(info.key)
        if match:
            epochs[match.group(1)].append(info)
            committed |= {match.group(1)} if not match.group(2).startswith("/rank-") else set()
    return {epoch: found for epoch, found in epochs.items() if epoch in committed}


def _trials(store: ArtifactStore, found: Belongings, retention: RetentionConfig) -> Iterator[tuple[str, int]]:
    """The checkpoints that the result of a finished study names and its retention keeps, as far as they are there."""
    for key, document in sorted(found.documents.items()):
        if key.startswith("stages/search/") and retention.trials != "none":
            named = sorted(need.key for need in document.needs if "/trials/" in need.key)
            kept = named if retention.trials == "all" else [one for one in named if int(one.split("/")[3]) in found.front]
            yield from ((info.key, info.size_bytes) for one in kept if (info := store.stat(one)) is not None)
