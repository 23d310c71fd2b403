"""Run records: which keys a run used and how it went. A record names results and never holds them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime

from foundry_ray.artifacts.manifests import get_json, put_json
from foundry_ray.documents import envelope
from foundry_ray.errors import ArtifactNotFound, ConfigError
from foundry_ray.protocols import ArtifactStore, Clock
from foundry_ray.types import FORMAT_VERSION, RunRecord, from_json, to_json

_PREFIX = "runs/"


def new_run_id(pipeline: str, clock: Clock) -> str:
    """A name that sorts by time: pipeline-YYYYmmdd-HHMMSS-xxxx (UTC)."""
    return f"{pipeline}-{datetime.fromtimestamp(clock.now_s(), UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def record_key(run_id: str) -> str:
    """Where the record of a run lies."""
    return f"{_PREFIX}{run_id}/record.json"


def save_run(store: ArtifactStore, record: RunRecord) -> None:
    """Write the record as it stands; the last writer wins, and a run has one writer."""
    put_json(store, record_key(record.run_id), {"format_version": FORMAT_VERSION, "record": to_json(record)})


def load_run(store: ArtifactStore, run_id: str) -> RunRecord:
    """Raises ArtifactNotFound, naming the most recent runs."""
    key = record_key(run_id)
    try:
        document = envelope(get_json(store, key), what=key)
    except ArtifactNotFound as error:
        raise _unknown(store, run_id) from error
    return from_json(RunRecord, document.get("record"), what=key)


def list_runs(store: ArtifactStore) -> Iterator[str]:
    """Run ids in the store's key order: by pipeline, then by time."""
    for info in store.list(_PREFIX):
        if info.key.endswith("/record.json"):
            yield info.key.removeprefix(_PREFIX).removesuffix("/record.json")


def find_run(store: ArtifactStore, name: str) -> RunRecord:
    """A run by its id, by an unambiguous beginning of it, or the most recent one by `latest`."""
    return load_run(store, find_run_id(store, name))


def find_run_id(store: ArtifactStore, name: str) -> str:
    """As `find_run`, without reading the record, which may be unreadable. Raises ArtifactNotFound, or ConfigError for an ambiguous name."""
    runs = list(list_runs(store))
    if name == "latest" and runs:
        return max(runs, key=lambda run_id: run_id.split("-")[-3:-1])
    if name in runs:
        return name
    matches = [run_id for run_id in runs if run_id.startswith(name)]
    if len(matches) > 1:
        raise ConfigError(f"{name!r} is the beginning of {len(matches)} runs: {', '.join(matches[:3])}.", hint="write more of it, or `latest`.")
    if not matches:
        raise _unknown(store, name)  # without asking for it: a name may hold what no key can
    return matches[0]


def _unknown(store: ArtifactStore, name: str) -> ArtifactNotFound:
    recent = ", ".join(list(list_runs(store))[-3:]) or "none yet"
    return ArtifactNotFound(f"There is no run {name!r} in {store.uri}; the latest are: {recent}.", hint="`foundry runs list` shows all.", key=name)


def delete_run(store: ArtifactStore, run_id: str) -> None:
    """Remove the record. What the run made stays: other runs may use the same keys."""
    if store.stat(f"{_PREFIX}{run_id}/record.json") is None:
        raise _unknown(store, run_id)
    for info in list(store.list(f"{_PREFIX}{run_id}/")):
        store.delete(info.key)
