"""What is broken in a store is found, with whom it harms and what mends it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from foundry_ray.artifacts.cache import Cached
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.artifacts.manifests import read_file
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound
from foundry_ray.housekeeping.contents import MAX_DOCUMENT_BYTES
from foundry_ray.housekeeping.damage import Problem
from foundry_ray.housekeeping.verify import StoreCheck, check_store
from foundry_ray.registry import resolve
from foundry_ray.search import segments
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stored_runs import RUN_ID, compact, stage_key_of, store_run
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import canonical_bytes

RECORD = f"runs/{RUN_ID}/record.json"
TEACHER = f"stages/teacher/{stage_key_of('teacher')}.json"
OLD_STORE = Path(__file__).parents[2] / "data" / "store_v1.tar.gz"
Check = Callable[..., StoreCheck]


@pytest.fixture
def check(full: MemoryStore, reporter: RecordingReporter) -> Check:
    return lambda **options: check_store(full, **{"reporter": reporter, "deep": True, **options})


def _only(found: StoreCheck, kind: str = "") -> Problem:
    [problem] = [one for one in found.problems if not kind or one.kind == kind]
    return problem


def _keys(store: MemoryStore, part: str) -> list[str]:
    return sorted(key for key in store.objects if part in key)


def _model_blob(store: MemoryStore, stage: str) -> str:
    """The key of a model's own file."""
    model = json.loads(store.objects[f"stages/{stage}/{stage_key_of(stage)}.json"])["outputs"]["artifact"]["key"]
    sha256 = json.loads(store.objects[model])["files"]["model.onnx"]["sha256"]
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def _set(store: MemoryStore, key: str, **fields: object) -> None:
    store.objects[key] = canonical_bytes({**json.loads(store.objects[key]), **fields})


def test_a_whole_store_has_no_findings(check: Check, full: MemoryStore, reporter: RecordingReporter) -> None:
    found = check()
    assert found.is_sound
    assert found.problems == ()
    assert found.num_objects == len(full.objects)
    assert found.num_hashed >= len(_keys(full, "blobs/"))
    assert reporter.progresses[-1][0] == reporter.progresses[-1][1] == found.hashed_bytes


def test_verifying_writes_nothing(check: Check, full: MemoryStore) -> None:
    before = dict(full.objects)
    check()
    assert full.objects == before


def test_a_missing_file_names_all_that_need_it_and_the_stage_that_made_it(check: Check, full: MemoryStore) -> None:
    blob = _model_blob(full, "student")
    full.delete(blob)
    problem = _only(check())
    assert (problem.kind, problem.key) == ("missing", blob)
    assert problem.breaks == ("alias mnist@champion", "model mnist:1", f"run {RUN_ID}")
    assert problem.fix == "foundry run pipeline.yaml --fresh student"


def test_what_many_stages_lead_to_is_mended_by_the_one_that_made_it(check: Check, full: MemoryStore) -> None:
    full.delete(_model_blob(full, "teacher"))
    assert _only(check()).fix == "foundry run pipeline.yaml --fresh teacher"


def test_a_file_of_another_size_is_corrupt_without_reading_it(check: Check, full: MemoryStore) -> None:
    blob = _model_blob(full, "student")
    full.objects[blob] += b"!"
    problem = _only(check(deep=False))
    assert (problem.kind, problem.key, problem.detail) == ("corrupt", blob, "has 10 bytes, wanted 9")


def test_a_flipped_bit_is_found_by_reading(check: Check, full: MemoryStore) -> None:
    blob = _model_blob(full, "student")
    full.objects[blob] = bytes([full.objects[blob][0] ^ 1]) + full.objects[blob][1:]
    assert check(deep=False).is_sound
    problem = _only(check())
    assert (problem.kind, problem.key) == ("corrupt", blob)
    assert f"wanted {blob[-64:][:12]}" in problem.detail
    assert "model mnist:1" in problem.breaks


def test_a_flipped_bit_in_a_pack_is_found(check: Check, full: MemoryStore) -> None:
    [pack] = [key for key, data in full.objects.items() if key.startswith("blobs/") and b"rows 3rows 4" in data]
    full.objects[pack] = full.objects[pack].replace(b"rows 3", b"rows X")
    assert _only(check()).key == pack


def test_a_flipped_bit_in_a_checkpoint_is_found(check: Check, full: MemoryStore) -> None:
    [key] = _keys(full, "000000020-a/rank-00000.bin")
    full.objects[key] = b"epoch X"
    problem = _only(check())
    assert problem.key == key
    assert "store.retention.checkpoints to none" in problem.fix


def test_what_a_cache_remembers_does_not_hide_what_the_store_lost(
    full: MemoryStore, reporter: RecordingReporter, clock: FakeClock, tmp_path: Path
) -> None:
    blob = _model_blob(full, "student")
    cached = Cached(full, folder=tmp_path, max_bytes=1 << 20, clock=clock)
    cached.get(blob)
    full.objects[blob] = b"x" * len(full.objects[blob])
    assert not check_store(cached, deep=True, reporter=reporter).is_sound


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"{", "is not JSON"),
        (b"[1, 2]", "holds list, wanted an object"),
        (b"[" * 100_000, "is nested deeper than 100 levels"),
        (b'{"record": [], "format_version": 1}', "is not a RunRecord"),
        (b'{"record": {"run_id": "other", "pipeline": "p", "config": {}, "versions": {}}}', "is the record of 'other'"),
        (b" " * (MAX_DOCUMENT_BYTES + 1), f"a document has at most {MAX_DOCUMENT_BYTES}"),
    ],
)
def test_a_record_that_cannot_be_read_is_corrupt_and_deleted_by_name(check: Check, full: MemoryStore, data: bytes, detail: str) -> None:
    full.objects[RECORD] = data
    problem = _only(check(), "corrupt")
    assert problem.key == RECORD
    assert detail in problem.detail
    assert problem.fix == f"foundry runs delete {RUN_ID}"


def test_a_manifest_under_another_name_is_corrupt(check: Check, full: MemoryStore) -> None:
    model = resolve(full, "mnist@champion").model.artifact.key
    _set(full, model, meta={"parents": ["artifacts/model/forged.json"]})
    problem = _only(check(), "corrupt")
    assert problem.key == model
    assert "has sha256" in problem.detail


def test_a_manifest_that_is_too_large_is_corrupt_and_never_read_whole(check: Check, full: MemoryStore) -> None:
    model = resolve(full, "mnist@champion").model.artifact.key
    full.objects[model] = b"[" * (MAX_DOCUMENT_BYTES + 1)
    problem = _only(check(), "corrupt")
    assert (problem.key, problem.detail) == (model, f"{model} has {MAX_DOCUMENT_BYTES + 1} bytes, a document has at most {MAX_DOCUMENT_BYTES}.")
    with pytest.raises(ArtifactCorrupt, match=f"has {MAX_DOCUMENT_BYTES + 1} bytes, a manifest has at most"):
        read_file(full, model, "model.onnx")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a//b", "a\\b"])
def test_a_manifest_that_names_a_path_outside_is_corrupt(check: Check, full: MemoryStore, name: str) -> None:
    model = resolve(full, "mnist@champion").model.artifact.key
    _set(full, model, files={name: {"sha256": "0" * 64, "size_bytes": 1}})
    assert "not portable" in _only(check(), "corrupt").detail


def test_a_stage_result_that_names_a_path_outside_leads_nowhere(check: Check, full: MemoryStore) -> None:
    _set(full, TEACHER, outputs={"artifact": {"key": "artifacts/../../etc/passwd"}, "path": "../../etc/passwd"})
    assert check().is_sound


def test_a_result_that_is_gone_breaks_the_run_that_names_it(check: Check, full: MemoryStore) -> None:
    full.delete(TEACHER)
    problem = _only(check(), "missing")
    assert problem.breaks == (f"run {RUN_ID}",)
    assert problem.fix == "foundry run pipeline.yaml --fresh teacher"


def test_an_alias_without_its_version_is_broken(check: Check, full: MemoryStore) -> None:
    full.delete("registry/mnist/versions/00000001")
    problem = _only(check(), "missing")
    assert problem.breaks == ("alias mnist@champion",)


def test_a_compacted_journal_is_whole(check: Check, full: MemoryStore) -> None:
    compact(full)
    assert check().problems == ()


def test_a_hole_after_a_snapshot_is_found(check: Check, full: MemoryStore) -> None:
    compact(full)
    prefix = f"studies/{stage_key_of('study')}/journal"
    full.put(f"{prefix}/00000003", full.objects[f"{prefix}/00000001"])
    assert _only(check(), "missing").key == f"{prefix}/00000002"


def test_checkpoints_of_earlier_rungs_are_missed_by_nobody(check: Check, full: MemoryStore) -> None:
    study = stage_key_of("study")
    earlier = f"studies/{study}/trials/000000/000000-{'b' * 32}.safetensors"
    full.put(f"studies/{study}/journal/00000002", segments.segment([canonical_bytes({"kind": "rung", "checkpoint": earlier})], driver="d", number=2))
    assert check().problems == ()


def test_a_hole_in_a_journal_is_found(check: Check, full: MemoryStore) -> None:
    hole = f"studies/{stage_key_of('study')}/journal/00000000"
    full.delete(hole)
    problem = _only(check())
    assert (problem.kind, problem.key) == ("missing", hole)
    assert problem.fix == "foundry run pipeline.yaml --fresh search"


def test_trial_checkpoints_of_a_finished_study_may_go(check: Check, full: MemoryStore) -> None:
    full.delete(*_keys(full, "/trials/"))
    found = check()
    assert found.is_sound
    assert _only(found).kind == "expired"
    assert _only(found).num_objects == 3


def test_a_later_format_is_told_and_is_no_damage(check: Check, full: MemoryStore) -> None:
    _set(full, TEACHER, format_version=99)
    found = check()
    assert found.is_sound
    assert (_only(found).kind, _only(found).detail) == ("newer", "has format_version 99")


def test_what_nothing_names_is_orphaned_and_no_damage(check: Check, full: MemoryStore) -> None:
    full.put("blobs/sha256/aa/" + "a" * 64, b"lost")
    found = check(deep=False)
    assert found.is_sound
    assert (_only(found).kind, _only(found).num_objects, _only(found).size_bytes) == ("orphaned", 1, 4)
    assert "foundry store gc" in _only(found).fix


def test_what_came_since_the_listing_is_not_missing(full: MemoryStore, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = [info for info in full.list("") if info.key != _model_blob(full, "student")]
    monkeypatch.setattr(full, "list", lambda prefix: iter([info for info in listing if info.key.startswith(prefix)]))
    assert check_store(full, reporter=reporter).is_sound


@pytest.mark.parametrize("name", [RUN_ID, "latest", "mnist@champion", "mnist:1", "mnist-2026"])
def test_a_run_or_a_model_can_be_verified_alone(check: Check, full: MemoryStore, clock: FakeClock, name: str) -> None:
    store_run(full, clock=clock, run_id="other-20250101-000000-bbbb", seed=1)
    full.delete(f"stages/teacher/{stage_key_of('teacher', 1)}.json")
    if name == "mnist@champion":
        name = "mnist:1"  # the other run's model is champion now
    found = check(name=name)
    assert found.is_sound
    assert found.num_objects < len(full.objects)
    full.delete(_model_blob(full, "student"))
    assert not check(name=name).is_sound


def test_an_unknown_name_is_the_users_mistake(check: Check) -> None:
    with pytest.raises(ArtifactNotFound, match="There is no run 'nope'"):
        check(name="nope")


def test_a_model_named_without_a_version_is_its_champion(check: Check) -> None:
    assert check(name="mnist").is_sound


def test_a_store_of_the_version_before_is_read(tmp_path: Path, reporter: RecordingReporter) -> None:
    with tarfile.open(OLD_STORE) as archive:
        archive.extractall(tmp_path, filter="data")
    found = check_store(LocalStore(tmp_path), deep=True, reporter=reporter)
    assert {problem.kind for problem in found.problems} == {"missing", "expired"}  # its large files were left out
    assert all("model.safetensors" in one.key or one.key.startswith(("blobs/", "checkpoints/")) for one in found.problems if one.kind == "missing")
