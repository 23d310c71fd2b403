"""A run moves to another store in one file, whole and unchanged, or not at all."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from foundry_ray import registry
from foundry_ray.config import RetentionConfig
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, ConfigError, Conflict, StoreUnavailable
from foundry_ray.housekeeping import importing
from foundry_ray.housekeeping.archive import reading
from foundry_ray.housekeeping.exporting import export_run
from foundry_ray.housekeeping.importing import Imported, import_run
from foundry_ray.housekeeping.verify import check_store
from foundry_ray.protocols import ArtifactStore
from foundry_ray.runlog import load_run, save_run
from foundry_ray.testing import samples
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stored_runs import RUN_ID, compact, stage_key_of, store_extending_run, store_run
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.types import ArtifactRef, canonical_bytes

OTHER = "mnist-20260101-000001-bbbb"
Export = Callable[..., Path]
Import = Callable[..., Imported]


@pytest.fixture
def export(full: MemoryStore, tmp_path: Path, reporter: RecordingReporter) -> Export:
    def run(name: str = "run.tar.gz", *, store: ArtifactStore = full, run_id: str = RUN_ID, checkpoints: RetentionConfig | None = None) -> Path:
        export_run(store, run_id, tmp_path / name, checkpoints=checkpoints, reporter=reporter)
        return tmp_path / name

    return run


@pytest.fixture
def load(tmp_path: Path, reporter: RecordingReporter) -> Import:
    return lambda store, path: import_run(store, path, max_bytes=1 << 30, scratch=tmp_path / "scratch", reporter=reporter)


def _keys(store: MemoryStore, part: str) -> list[str]:
    return sorted(key for key in store.objects if part in key)


@pytest.mark.parametrize("name", ["run.tar", "run.tar.gz"])
def test_a_run_arrives_as_it_left(full: MemoryStore, export: Export, load: Import, reporter: RecordingReporter, name: str) -> None:
    target = MemoryStore()
    imported = load(target, export(name))
    assert load_run(target, RUN_ID) == load_run(full, RUN_ID)
    arrived = {key: data for key, data in target.objects.items() if "/reports/" not in key}  # a verdict's place in the champion's history stays
    assert arrived.items() <= full.objects.items()
    assert registry.resolve(target, imported.model).report == registry.resolve(full, "mnist:1").report
    assert check_store(target, name=RUN_ID, deep=True, reporter=reporter).is_sound
    assert registry.resolve(target, imported.model).model == registry.resolve(full, "mnist:1").model


def test_aliases_caches_and_checkpoints_stay_behind(full: MemoryStore, export: Export, load: Import) -> None:
    full.put("latency/abc/graph-b1.json", b"{}")
    target = MemoryStore()
    load(target, export())
    assert not any(_keys(target, part) for part in ("/aliases/", "latency/", "checkpoints/", "/trials/"))
    assert len(_keys(target, "/journal/")) == 2


@pytest.mark.parametrize(("keep", "epochs", "trials"), [("all", 2, 3), ("last", 1, 2), ("none", 0, 0)])
def test_checkpoints_go_along_as_the_retention_says(export: Export, load: Import, keep: str, epochs: int, trials: int) -> None:
    kept = RetentionConfig.model_validate({"checkpoints": keep, "trials": "front" if keep == "last" else keep})
    target = MemoryStore()
    load(target, export(checkpoints=kept))
    assert len(_keys(target, f"{stage_key_of('teacher')}/00000")) == 3 * epochs  # manifest, list and file
    assert len(_keys(target, f"checkpoints/{stage_key_of('student')}/")) == min(1, epochs)
    assert len(_keys(target, "/trials/")) == trials


def test_a_compacted_journal_and_what_its_study_is_of_go_along(full: MemoryStore, export: Export, load: Import) -> None:
    compact(full)
    target = MemoryStore()
    load(target, export())
    part = f"studies/{stage_key_of('study')}/"
    assert [key.removeprefix(part) for key in _keys(target, part)] == ["journal-snapshots/00000001", "journal/00000001", "study.json"]
    assert {key: target.objects[key] for key in _keys(target, part)}.items() <= full.objects.items()


def test_a_checkpoint_that_the_study_took_over_goes_along(full: MemoryStore, clock: FakeClock, export: Export, load: Import) -> None:
    record = store_extending_run(full, load_run(full, RUN_ID), clock=clock)
    target = MemoryStore()
    load(target, export(run_id=record.run_id, checkpoints=RetentionConfig()))
    studies = [key.split("/")[1] for key in _keys(target, "/trials/")]
    assert sorted(studies) == sorted([stage_key_of("study"), stage_key_of("study", 1)])


@pytest.mark.parametrize("name", ["run.tar", "run.tar.gz"])
def test_equal_runs_give_equal_files(export: Export, name: str) -> None:
    first = export(name).read_bytes()
    assert export("again-" + name).read_bytes() == first


def test_the_file_is_a_plain_tar_that_others_can_list(full: MemoryStore, export: Export) -> None:
    with tarfile.open(export("run.tar.gz")) as archive:
        names = archive.getnames()
        listing = json.loads(archive.extractfile("foundry-export.json").read())
    assert names[0] == "foundry-export.json"
    assert names[-1] == f"runs/{RUN_ID}/record.json"
    assert len(listing["objects"]) == len(names) - 1


def test_a_second_import_changes_nothing(export: Export, load: Import) -> None:
    target, path = MemoryStore(), export(checkpoints=RetentionConfig())
    load(target, path)
    before = dict(target.objects)
    assert load(target, path).num_new == 0
    assert target.objects == before


def test_an_import_into_the_store_that_it_came_from_changes_nothing(full: MemoryStore, export: Export, load: Import) -> None:
    before = dict(full.objects)
    assert load(full, export(checkpoints=RetentionConfig())).num_new == 0
    assert full.objects == before


def test_the_record_is_written_last(export: Export, load: Import) -> None:
    target = FailingStore(MemoryStore())
    load(target, export())
    puts = [key for verb, key in target.calls if verb == "put"]
    kinds = [key.partition("/")[0] for key in puts]
    assert puts[-1] == f"runs/{RUN_ID}/record.json"
    assert max(i for i, kind in enumerate(kinds) if kind in ("blobs", "artifacts")) < kinds.index("studies") < kinds.index("stages")


def test_an_import_that_was_interrupted_is_finished_by_the_next(full: MemoryStore, export: Export, load: Import) -> None:
    target, path = MemoryStore(), export()
    failing = FailingStore(target)
    failing.fail("put")
    with pytest.raises(StoreUnavailable):
        load(failing, path)
    assert not _keys(target, "runs/")
    load(target, path)
    assert load_run(target, RUN_ID) == load_run(full, RUN_ID)


@pytest.mark.parametrize("part", ["/record.json", "stages/teacher/", "/journal/00000001"])
def test_an_object_with_other_content_is_a_conflict_and_nothing_is_written(export: Export, load: Import, part: str) -> None:
    target, path = MemoryStore(), export()
    load(target, path)
    [key] = _keys(target, part)
    saved = dict(target.objects)
    value = json.loads(saved[key])
    other = {**value, "outputs": {}} if part.startswith("stages") else {**value, "driver": "x", "record": None}
    target.objects.clear()
    target.objects[key] = canonical_bytes(other)
    with pytest.raises(Conflict, match=f"holds {key} with other content") as raised:
        load(target, path)
    assert "nothing is overwritten" in raised.value.hint
    assert target.objects == {key: canonical_bytes(other)}


def test_a_checkpoint_with_other_content_is_a_conflict(export: Export, load: Import) -> None:
    target = MemoryStore()
    key = f"checkpoints/{stage_key_of('teacher')}/000000020-a/rank-00000.bin"
    target.put(key, b"epoch X")
    with pytest.raises(Conflict, match=key):
        load(target, export(checkpoints=RetentionConfig()))
    assert list(target.objects) == [key]


def test_a_result_that_both_stores_found_is_no_conflict(clock: FakeClock, export: Export, load: Import) -> None:
    target = MemoryStore()
    clock.advance(1000.0)
    store_run(target, clock=clock, run_id=OTHER, seed=1)  # prepared the same data itself, later
    load(target, export())
    assert {run.split("/")[1] for run in _keys(target, "/record.json")} == {RUN_ID, OTHER}


def test_a_version_takes_the_next_number_and_the_documents_say_so(clock: FakeClock, export: Export, load: Import) -> None:
    target = MemoryStore()
    store_run(target, clock=clock, run_id=OTHER, seed=1)
    path = export()
    assert load(target, path).model == "mnist:2"
    assert load(target, path).model == "mnist:2"
    assert load_run(target, RUN_ID).stage("registry").outputs["version"] == 2
    assert json.loads(target.objects[f"stages/registry/{stage_key_of('registry')}.json"])["outputs"]["version"] == 2
    assert registry.resolve(target, "mnist@champion").version == 1


def test_a_model_that_has_a_version_keeps_it_and_what_was_said_of_it(full: MemoryStore, clock: FakeClock, export: Export, load: Import) -> None:
    target, entry = MemoryStore(), registry.resolve(full, "mnist:1")
    path = export()
    load(target, path)
    registry.register(target, name="mnist", model=entry.model, report_key=entry.report, passed=False, run_id="later", clock=clock)
    load(target, path)
    assert [version.passed for version in registry.versions(target, "mnist")] == [False]


def test_packed_files_and_generations_are_left_behind(
    full: MemoryStore, clock: FakeClock, export: Export, load: Import, reporter: RecordingReporter
) -> None:
    sha256 = load_run(full, RUN_ID).stage("data").outputs["key"].rpartition("/")[2].removesuffix(".json")
    first, second = f"artifacts/dataset/{sha256}.json", f"artifacts/dataset/{sha256}.1.json"
    full.put(second, full.objects[first])
    full.delete(first)
    for key in _keys(full, "stages/") + _keys(full, "/record.json"):
        full.objects[key] = full.objects[key].replace(first.encode(), second.encode())
    target = MemoryStore()
    load(target, export())
    assert _keys(target, "artifacts/dataset/") == [first]
    assert check_store(target, deep=True, reporter=reporter).is_sound


def test_an_artifact_that_gets_another_key_here_is_named_by_it(
    export: Export, load: Import, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importing.publish

    def publish_as_if_collected(store: MemoryStore, **options: object) -> ArtifactRef:
        ref = real(store, **options)
        moved = replace(ref, key=ref.key.removesuffix(".json") + ".1.json")
        store.put(moved.key, store.objects.pop(ref.key))
        return moved

    monkeypatch.setattr(importing, "publish", publish_as_if_collected)
    target = MemoryStore()
    load(target, export())
    assert registry.resolve(target, "mnist:1").model.artifact.key.endswith(".1.json")
    assert check_store(target, name=RUN_ID, deep=True, reporter=reporter).is_sound
    assert load(MemoryStore(), export("again.tar", store=target)).num_new


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run.tar.zst", "asks for zstandard, which this Python's library does not have"),
        ("run.zip", "wanted .tar or .tar.gz at its end"),
        ("missing/run.tar", "cannot be written: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_the_users_mistake(export: Export, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export(name)


def test_what_is_not_whole_is_not_exported(full: MemoryStore, export: Export, tmp_path: Path) -> None:
    full.delete(*_keys(full, "blobs/")[:1])
    with pytest.raises(ArtifactNotFound, match=f"{RUN_ID} cannot be exported: blobs/") as raised:
        export()
    assert f"foundry store verify {RUN_ID} --deep" in raised.value.hint
    assert list(tmp_path.iterdir()) == []


def test_what_is_corrupt_is_not_exported(full: MemoryStore, export: Export, tmp_path: Path) -> None:
    key = next(key for key, data in full.objects.items() if data == b"student 0")
    full.objects[key] = b"student X"
    with pytest.raises(ArtifactCorrupt, match=f"{RUN_ID} cannot be exported: {key} has sha256"):
        export()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_only_began_can_move_too(export: Export, load: Import) -> None:
    source, target = MemoryStore(), MemoryStore()
    record = replace(samples.record(), stages=())
    save_run(source, record)
    assert load(target, export(store=source, run_id=record.run_id)).num_objects == 1
    assert load_run(target, record.run_id) == record


def test_a_large_file_is_never_in_memory(full: MemoryStore, export: Export, load: Import) -> None:
    """The reader hands out pieces of at most 1 MiB, whatever the file's size."""
    data = b"x" * (5 << 20)
    sha256 = hashlib.sha256(data).hexdigest()
    full.put(f"checkpoints/{stage_key_of('student')}/000002-{sha256[:32]}.safetensors", data)
    with reading(export(checkpoints=RetentionConfig()), max_bytes=1 << 30) as archive:
        sizes = [len(piece) for _, pieces in archive.objects() for piece in pieces]
    assert max(sizes) == 1 << 20
    assert sum(sizes) == archive.listing.size_bytes


def test_the_gzip_header_names_no_time_and_no_file(export: Export) -> None:
    data = export().read_bytes()
    assert data[4:8] == bytes(4)
    assert b"run.tar" not in data[:32]
    assert gzip.decompress(data)
