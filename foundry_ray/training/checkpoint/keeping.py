"""Which checkpoints stay, and how the others go."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping

from foundry_ray.protocols import ArtifactStore
from foundry_ray.training.checkpoint.commit import sweep
from foundry_ray.training.checkpoint.layout import FOLDER, Checkpoint, folder_order, is_first_format, stage_folder
from foundry_ray.training.checkpoint.reader import committed


def chosen(checkpoints: Iterable[Checkpoint], values: Mapping[int, float], *, keep_last: int, keep_best: int) -> frozenset[int]:
    """The steps to keep: those of the newest checkpoints, and of the best.

    The newest are those that were made last: one that nobody could read, so that training went on from an older one, has a later step than
    those made after it, and must not push them out.

    Args:
        checkpoints: All that there are.
        values: The val metric by step, where it is known; higher is better. Steps without a checkpoint do not count.
        keep_last: How many of the newest.
        keep_best: How many of the best; among equals the earlier.
    """
    steps = list(dict.fromkeys(checkpoint.step for checkpoint in sorted(checkpoints, key=_made, reverse=True)))
    judged = [step for step in steps if not math.isnan(values.get(step, math.nan))]
    best = sorted(judged, key=lambda step: (-values[step], step))
    return frozenset((*steps[:keep_last], *best[:keep_best]))


def keep(store: ArtifactStore, stage_key: str, steps: Collection[int]) -> None:
    """Delete all checkpoints of a stage but the newest one of each of these steps, each one's manifest first.

    With them goes what was never committed and is not ahead of the newest one that was: leftovers of attempts that died. What is ahead may be on its
    way. Once there is a committed one, those of the first format go too.
    """
    found = committed(store, stage_key)
    kept = {checkpoint.step: checkpoint.folder for checkpoint in found if checkpoint.step in steps}
    newest = max(found, key=_made).step if found else -1
    whole = {checkpoint.folder for checkpoint in found}
    for folder in _folders(store, stage_key):
        name = folder.removeprefix(stage_folder(stage_key)).removesuffix("/")
        is_behind = newest >= 0 if is_first_format(name) else folder_order(name)[1] <= newest
        if folder not in kept.values() and (folder in whole or is_behind):
            sweep(store, folder)


def _made(checkpoint: Checkpoint) -> tuple[str, int]:
    return checkpoint.created_at, checkpoint.step


def _folders(store: ArtifactStore, stage_key: str) -> list[str]:
    root = stage_folder(stage_key)
    names = {info.key.removeprefix(root).partition("/")[0] for info in store.list(root) if "/" in info.key.removeprefix(root)}
    return [f"{root}{name}/" for name in sorted(names) if re.fullmatch(FOLDER, name)]
