"""Artifacts are whole or absent, the same content has one key, and rotten bytes are never returned."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundry_ray.artifacts.manifests import artifact_sha256, fetch, get_json, load_manifest, publish, put_json, read_file
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, Conflict, StoreError, StoreUnavailable
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.types import ArtifactRef

_FILES = {"model.onnx": b"graph", "parts/0.bin": b"weights"}


def _publish(store: MemoryStore, created_at: str = "2024-01-01") -> ArtifactRef:
    return publish(store, kind="model", files=_FILES, meta={"family": "resnet"}, created_at=created_at)


def test_published_files_come_back(store: MemoryStore, tmp_path: Path) -> None:
    ref = _publish(store)
    assert read_file(store, ref.key, "model.onnx") == b"graph"
    assert {name: path.read_bytes() for name, path in fetch(store, ref.key, tmp_path).items()} == _FILES
    assert (ref.kind, ref.size_bytes, ref.key) == ("model", 12, f"artifacts/model/{ref.sha256}.json")
    assert load_manifest(store, ref.key).meta == {"family": "resnet"}


def test_the_same_content_has_the_same_key_and_keeps_its_first_date(store: MemoryStore, tmp_path: Path) -> None:
    first = _publish(store)
    (tmp_path / "graph").write_bytes(b"graph")
    files = {"parts/0.bin": b"weights", "model.onnx": tmp_path / "graph"}
    assert publish(store, kind="model", files=files, meta={"family": "resnet"}, created_at="2025-05-05") == first


def test_other_meta_is_another_artifact(store: MemoryStore) -> None:
    assert publish(store, kind="model", files=_FILES, meta=None, created_at="").key != _publish(store).key


def test_the_manifest_is_written_last(store: MemoryStore) -> None:
    failing = FailingStore(store)
    _publish(failing)
    puts = [key for verb, key in failing.calls if verb == "put"]
    assert [key.split("/")[0] for key in puts] == ["blobs", "blobs", "artifacts"]


def test_a_publication_that_breaks_off_leaves_no_artifact(store: MemoryStore) -> None:
    failing = FailingStore(store)
    failing.fail("put")
    with pytest.raises(StoreUnavailable):
        _publish(failing)
    assert not [key for key in store.objects if key.startswith("artifacts/")]


def _rot(store: MemoryStore, prefix: str) -> None:
    for key, data in store.objects.items():
        if key.startswith(prefix):
            store.objects[key] = bytes([data[0] ^ 1]) + data[1:]


def test_a_rotten_file_is_never_returned(store: MemoryStore, tmp_path: Path) -> None:
    ref = _publish(store)
    _rot(store, "blobs/")
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx has sha256 \w{12}, wanted \w{12}\. Hint: `--fresh STAGE` makes it again"):
        read_file(store, ref.key, "model.onnx")
    with pytest.raises(ArtifactCorrupt):
        fetch(store, ref.key, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_truncated_file_is_never_returned(store: MemoryStore) -> None:
    ref = _publish(store)
    for key in [key for key in store.objects if key.startswith("blobs/")]:
        store.objects[key] = store.objects[key][:-1]
    with pytest.raises(ArtifactCorrupt):
        read_file(store, ref.key, "parts/0.bin")


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[1]", b'{"kind": "model"}', b'{"kind":"model","files":{},"meta":null,"created_at":"","format_version":1}']
)
def test_a_damaged_manifest_is_corrupt(store: MemoryStore, damage: bytes) -> None:
    ref = _publish(store)
    store.objects[ref.key] = damage
    with pytest.raises(ArtifactCorrupt):
        load_manifest(store, ref.key)


def test_publishing_again_mends_what_has_rotted(store: MemoryStore) -> None:
    ref = _publish(store)
    _rot(store, "blobs/")
    store.objects[ref.key] = b"{"
    assert _publish(store).key == ref.key
    assert read_file(store, ref.key, "model.onnx") == b"graph"


def test_fetching_again_keeps_good_files_and_replaces_bad_ones(store: MemoryStore, tmp_path: Path) -> None:
    ref = _publish(store)
    fetch(store, ref.key, tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"edited")
    counting = FailingStore(store)
    assert {name: path.read_bytes() for name, path in fetch(counting, ref.key, tmp_path).items()} == _FILES
    assert [verb for verb, _ in counting.calls].count("download") == 1


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a//b"])
def test_a_file_name_that_leaves_the_folder_is_refused(store: MemoryStore, name: str) -> None:
    with pytest.raises(StoreError, match="not portable"):
        publish(store, kind="model", files={name: b"1"}, created_at="")
    assert store.objects == {}


def test_a_hostile_manifest_writes_nothing_outside(store: MemoryStore, tmp_path: Path) -> None:
    from foundry_ray.artifacts.manifests import BlobInfo, Manifest
    from foundry_ray.types import to_json

    manifest = Manifest(kind="model", files={"../escape": BlobInfo(sha256="0" * 64, size_bytes=1)})
    key = f"artifacts/model/{manifest.sha256}.json"
    put_json(store, key, to_json(manifest))
    with pytest.raises(StoreError, match="not portable"):
        fetch(store, key, tmp_path / "inside")
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_of_a_newer_foundry_is_not_guessed_at(store: MemoryStore) -> None:
    put_json(store, "artifacts/model/x.json", {"format_version": 99})
    with pytest.raises(StoreError, match=r"format_version 99, this foundry reads up to 2\. Hint: `pip install -U foundry-ray`"):
        load_manifest(store, "artifacts/model/x.json")


def test_an_unknown_file_is_answered_with_the_known_ones(store: MemoryStore) -> None:
    ref = _publish(store)
    with pytest.raises(StoreError, match=r"has no file 'none', it has model\.onnx, parts/0\.bin"):
        read_file(store, ref.key, "none")


def test_json_round_trips_and_is_created_once(store: MemoryStore) -> None:
    put_json(store, "a", {"b": [1, None, 0.5]}, if_absent=True)
    assert get_json(store, "a") == {"b": [1, None, 0.5]}
    with pytest.raises(Conflict):
        put_json(store, "a", {}, if_absent=True)
    with pytest.raises(ArtifactNotFound):
        get_json(store, "none")


def _puts(store: FailingStore) -> list[str]:
    return [key.split("/")[0] for verb, key in store.calls if verb == "put"]


def test_what_another_artifact_stored_is_not_uploaded_again(store: MemoryStore) -> None:
    _publish(store)
    counting = FailingStore(store)
    publish(counting, kind="model", files={**_FILES, "extra": b"extra"}, created_at="")
    assert _puts(counting) == ["blobs", "artifacts"]


def test_publishing_again_uploads_nothing_that_is_sound(store: MemoryStore) -> None:
    _publish(store)
    counting = FailingStore(store)
    _publish(counting)
    assert _puts(counting) == ["artifacts"]


def test_a_rotten_blob_is_mended_by_publishing_its_artifact_again(store: MemoryStore) -> None:
    ref = _publish(store)
    _rot(store, "blobs/")
    _publish(store)
    assert read_file(store, ref.key, "model.onnx") == b"graph"


def test_blobs_that_look_abandoned_are_written_again_when_they_are_needed(clock: FakeClock) -> None:
    store = MemoryStore(clock)
    _publish(store)
    clock.advance(13 * 3600.0)
    counting = FailingStore(store)
    publish(counting, kind="model", files=_FILES, created_at="")
    assert sorted(_puts(counting)) == ["artifacts", "artifacts", "blobs", "blobs"]


def _plan(store: MemoryStore, *candidates: str, is_closed: bool = True) -> None:
    put_json(store, "gc/00000001/plan", {"format_version": 1, "created_at": "", "grace_s": 0.0, "cutoff_s": 0.0, "candidates": list(candidates)})
    if is_closed:
        put_json(store, "gc/00000001/closed", {})


@pytest.mark.parametrize("what", ["blobs/", "artifacts/"])
def test_what_a_collector_may_delete_is_published_under_new_keys(store: MemoryStore, what: str) -> None:
    first = _publish(store)
    doomed = [key for key in store.objects if key.startswith(what)]
    _plan(store, *doomed)
    ref = _publish(store)
    store.delete(*doomed)
    assert ref.key == f"artifacts/model/{first.sha256}.1.json"
    assert (ref.sha256, artifact_sha256(ref.key)) == (first.sha256, first.sha256)
    assert read_file(store, ref.key, "model.onnx") == b"graph"


def test_a_plan_that_is_not_closed_changes_nothing(store: MemoryStore) -> None:
    first = _publish(store)
    _plan(store, *store.objects, is_closed=False)
    assert _publish(store) == first


def test_a_delete_may_come_late_after_a_plan_is_done(clock: FakeClock) -> None:
    store = MemoryStore(clock)
    first = _publish(store)
    _plan(store, first.key)
    put_json(store, "gc/00000001/done", {})
    assert _publish(store).key != first.key
    clock.advance(3600.0)
    assert _publish(store).key == first.key


def test_a_blob_that_vanishes_before_the_last_look_is_uploaded_again(store: MemoryStore) -> None:
    class Thief(MemoryStore):
        def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
            super().put(key, source, if_absent=if_absent)
            if key.startswith("artifacts/") and not self.has_stolen:
                self.has_stolen = True
                self.delete(*[one for one in self.objects if one.startswith("blobs/")])

    thief = Thief()
    thief.has_stolen = False
    ref = _publish(thief)
    assert thief.has_stolen
    assert read_file(thief, ref.key, "model.onnx") == b"graph"


def test_a_collection_that_never_ends_is_an_error(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundry_ray.artifacts.plans.marked_keys", lambda store, now_s: frozenset(store.objects))
    with pytest.raises(StoreError, match="could not be published in 10 attempts"):
        _publish(store)
