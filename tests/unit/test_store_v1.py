"""A store that the first release wrote is read: artifacts, results, records, registry, journal, checkpoints, caches."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest

from foundry_ray import registry
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.artifacts.manifests import fetch, get_json, load_manifest, put_json, read_file
from foundry_ray.errors import StoreError
from foundry_ray.evaluation.latency import _decoded
from foundry_ray.housekeeping.verify import check_store
from foundry_ray.registry import resolve
from foundry_ray.runlog import find_run, load_run, read_result
from foundry_ray.search import segments
from foundry_ray.search.journal import Journal
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.training.checkpoint import latest
from foundry_ray.training.checkpoint.layout import committed_keys
from foundry_ray.types import DatasetRef, EvaluationReport, ModelArtifact, RegistryEntry, RunStatus, StudyResult, from_json

_RUN = "mnist-20261122-044011-ff17"
_STUDENT = "artifacts/model/7d59600712dea9dff29a2fa69f460850e1dc72ec5f86526f3cd0193e377cac7c.json"
_DATA = "artifacts/dataset/2b8e44fa3dd0ca2e850adcd050064bab20534d115ab0772b378c24ff07f7383e.json"
_OUTPUTS = {
    "data": DatasetRef,
    "teacher": ModelArtifact,
    "search": StudyResult,
    "student": ModelArtifact,
    "evaluation": EvaluationReport,
    "registry": RegistryEntry,
}


@pytest.fixture(scope="module")
def v1(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    folder = tmp_path_factory.mktemp("v1")
    with tarfile.open(Path(__file__).parents[1] / "data/store_v1.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return LocalStore(folder)


def test_artifacts_are_fetched(v1: LocalStore, tmp_path: Path) -> None:
    paths = fetch(v1, _STUDENT, tmp_path)
    assert sum(path.stat().st_size for path in paths.values()) == load_manifest(v1, _STUDENT).size_bytes == 168_228
    assert len(read_file(v1, _DATA, "test_images.npy")) == 100_480


def test_the_record_and_the_results_of_its_stages_are_read(v1: LocalStore) -> None:
    record = load_run(v1, _RUN)
    assert record.status is RunStatus.REJECTED
    for stage in record.stages:
        result = read_result(v1, stage.name, stage.key)
        assert result is not None
        assert from_json(_OUTPUTS[stage.name], result.outputs) == from_json(_OUTPUTS[stage.name], stage.outputs)
    assert find_run(v1, "latest") == record


def test_the_registry_is_read(v1: LocalStore) -> None:
    entry = resolve(v1, "mnist:1")
    assert (entry.model.artifact.key, entry.passed, entry.run_id) == (_STUDENT, False, _RUN)
    assert registry.names(v1) == ("mnist",)


def test_the_journal_is_read(v1: LocalStore) -> None:
    [study_key] = {info.key.split("/")[1] for info in v1.list("studies/")}
    events = segments.read(v1, f"studies/{study_key}/journal").events
    assert [event.kind for event in events].count("rung") == 3


def test_checkpoints_are_found_and_held_against_their_hashes(v1: LocalStore, reporter: RecordingReporter) -> None:
    stage = load_run(v1, _RUN).stage("teacher")
    assert stage is not None
    found = committed_keys(info.key for info in v1.list(f"checkpoints/{stage.key}/"))
    assert [keys[0].split("/")[2] for keys in found] == ["000001", "000002"]
    assert latest(v1, stage.key) is None  # training does not go on from them
    assert not _corrupt(v1, reporter)


def test_changed_checkpoints_are_found(v1: LocalStore, reporter: RecordingReporter, tmp_path: Path) -> None:
    copy = LocalStore(shutil.copytree(v1.root, tmp_path / "copy"))
    [key] = [info.key for info in copy.list("checkpoints/") if info.key.endswith("000002/rank-00000/loop.pt")]
    copy.put(key, b"X" + copy.get(key)[1:])
    assert _corrupt(copy, reporter) == [key]


def _corrupt(store: LocalStore, reporter: RecordingReporter) -> list[str]:
    """Keys with other bytes than their documents say. (The fixture leaves large files out: those are missing.)"""
    return [one.key for one in check_store(store, deep=True, reporter=reporter).problems if one.kind == "corrupt"]


def test_the_cache_of_latencies_is_read(v1: LocalStore) -> None:
    results = [_decoded(get_json(v1, info.key), info.key) for info in v1.list("latency/")]
    assert [result.n for result in results] == [100, 100, 100]


@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("runs/r/record.json", lambda store: load_run(store, "r")),
        ("stages/data/k.json", lambda store: read_result(store, "data", "k")),
        ("registry/m/versions/00000001", lambda store: resolve(store, "m:1")),
        ("studies/s/journal/00000000", lambda store: Journal(store, "studies/s/journal", driver="d").open()),
        ("checkpoints/k/000000001-a/manifest.json", lambda store: latest(store, "k")),
        ("latency/d/g-b1.json", lambda store: _decoded(get_json(store, "latency/d/g-b1.json"), "latency/d/g-b1.json")),
        ("artifacts/model/a.json", lambda store: load_manifest(store, "artifacts/model/a.json")),
    ],
)
def test_documents_of_a_newer_foundry_are_refused_by_name(store: MemoryStore, key: str, read: object) -> None:
    put_json(store, key, {"format_version": 99, "events": []})
    with pytest.raises(StoreError, match=rf"{key} has format_version 99, this foundry reads up to \d\. Hint: `pip install -U foundry-ray`"):
        read(store)
