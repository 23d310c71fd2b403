"""Results of finished stages, committed once under their key."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from foundry_ray.artifacts.manifests import get_json, put_json
from foundry_ray.errors import ArtifactNotFound, Conflict
from foundry_ray.protocols import ArtifactStore
from foundry_ray.types import FORMAT_VERSION, Json, from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """A finished stage: its typed output as JSON, and who made it with which library versions."""

    outputs: Json
    run_id: str
    created_at: str
    duration_s: float
    versions: Mapping[str, str]
    format_version: int = FORMAT_VERSION


def result_key(stage: str, key: str) -> str:
    """Where the result of a stage lies."""
    return f"stages/{stage}/{key}.json"


def read_result(store: ArtifactStore, stage: str, key: str) -> StageResult | None:
    """The committed result under this key, or None. Raises ArtifactCorrupt for one that cannot be read."""
    path = result_key(stage, key)
    try:
        document = get_json(store, path)
    except ArtifactNotFound:
        return None
    return from_json(StageResult, document, what=path)


def commit_result(store: ArtifactStore, stage: str, key: str, result: StageResult) -> None:
    """Commit a result; where another run was first, its equal result stands."""
    with contextlib.suppress(Conflict):
        put_json(store, result_key(stage, key), to_json(result), if_absent=True)


def forget_result(store: ArtifactStore, stage: str, key: str) -> None:
    """Make the next run do this stage again (`--fresh STAGE`)."""
    store.delete(result_key(stage, key))
