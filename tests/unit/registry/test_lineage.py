"""A version keeps what it was made of; older ones find it in the record of their run."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from foundry_ray import keys, registry
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.artifacts.manifests import get_json
from foundry_ray.config import PipelineConfig, Settings
from foundry_ray.pipeline import Pipeline
from foundry_ray.testing import samples
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.datasets import publish_bands
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import Lineage, RunRecord, StageRecord, StageStatus, from_json, to_json

from .conftest import lineage, put_model, put_version

STORE_V1 = Path(__file__).parents[2] / "data" / "store_v1.tar.gz"
SECRET = "wJalrXUtnFEMI-not-a-real-secret"


def _record(store: MemoryStore, config: PipelineConfig) -> RunRecord:
    data = StageRecord(name="data", key="d" * 32, status=StageStatus.REUSED, outputs=to_json(publish_bands(store)))
    record = samples.record()
    return replace(
        record, stages=(data, *record.stages), config=to_json(config.model_dump(mode="json")), versions={"foundry-ray": "0.1.0", "ray": "2"}
    )


def _config(tmp_path: Path) -> PipelineConfig:
    store = {"uri": "s3://models/team", "endpoint": "https://s3.example", "credentials_file": str(tmp_path / "credentials"), "profile": "team"}
    return PipelineConfig.model_validate({"name": "mnist", "data": {"source": "mnist_5k"}, "task": "image_classification", "store": store, "seed": 3})


def _registered(store: MemoryStore, tmp_path: Path) -> Lineage:
    config = _config(tmp_path)
    context = SimpleNamespace(store=store, clock=FakeClock(), settings=Settings(home=tmp_path, user="ann", host="desk"))
    pipeline = Pipeline(config=config, context=context)  # type: ignore[arg-type]
    entry = pipeline.register(put_model(store, b"one"), samples.report(), "e" * 32, _record(store, config))
    assert entry.lineage is None, "the run's record does not repeat what it is the source of"
    found = registry.resolve(store, "mnist@champion").lineage
    assert found is not None
    return found


def test_registration_stores_what_the_model_was_made_of(store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundry_ray.registry.lineage._DESCRIBE", ("echo", "c0ffee-dirty"))
    found = _registered(store, tmp_path)
    assert (found.dataset_fingerprint, found.dataset_key) == (publish_bands(store).fingerprint, publish_bands(store).key)
    assert (found.teacher, found.teacher_sha256, found.study_key) == ("artifacts/model/teacher.json", "teacher", "k" * 32)
    assert found.trial == samples.study().chosen_trial
    assert found.seeds == {"run": 3, "trial": 0}
    assert found.stages["data"] == "d" * 32
    assert found.code == {"foundry_ray": "0.1.0", "commit": "c0ffee-dirty"}
    assert found.versions["ray"] == "2"
    assert registry.history(store, "mnist", "champion")[0].by == "ann@desk"


def test_no_secret_gets_into_a_lineage(store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "FOUNDRY_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("FOUNDRY_SIGNING_KEY", f"hmac:{'c3' * 32}")
    (tmp_path / "credentials").write_text(f"[team]\naws_secret_access_key = {SECRET}\n")
    _registered(store, tmp_path)
    stored = [data for key, data in store.objects.items() if key.startswith("registry/")]
    assert any(b"s3://models/team" in data for data in stored), "the configuration is there"
    assert not any(secret in data for secret in (SECRET.encode(), b"c3c3c3") for data in stored)


def test_versions_of_format_1_find_their_lineage_in_the_record_of_their_run(tmp_path: Path) -> None:
    with tarfile.open(STORE_V1) as archive:
        archive.extractall(tmp_path, filter="data")
    store = LocalStore(tmp_path)
    found = registry.resolve(store, "mnist:1").lineage
    assert found is not None
    assert (found.trial.number, found.run_id) == (1, "mnist-20261122-044011-ff17")
    assert found.dataset_fingerprint.startswith("52cbbbc96433")
    assert found.code == {"foundry_ray": "0.1.0"}
    assert found.stages["student"] == "d5b19650bfc9d13aff6259f33ed5affb"
    store.delete("runs/mnist-20261122-044011-ff17/record.json")
    assert registry.resolve(store, "mnist:1").lineage is None
    assert registry.versions(store, "mnist")[0].passed is False


def test_a_version_keeps_its_first_lineage(store: MemoryStore) -> None:
    put_version(store, b"one", lineage=lineage())
    put_version(store, b"one", lineage=replace(lineage(), run_id="run-2"))
    assert registry.resolve(store, "mnist:1").lineage == registry.resolve(store, "mnist@champion").lineage == lineage()


def test_a_stored_lineage_is_read_back_whole(store: MemoryStore) -> None:
    put_version(store, b"one", lineage=lineage())
    document = get_json(store, "registry/mnist/versions/00000001")
    assert isinstance(document, dict)
    assert document["format_version"] == 2
    assert from_json(Lineage, document["lineage"]) == lineage()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_the_working_folder_is_told_with_whether_it_is_clean(tmp_path: Path) -> None:
    assert registry.commit_of(tmp_path) == ""
    (tmp_path / "model.py").write_text("1\n")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "model.py"), ("commit", "-q", "-m", "one")):
        subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True, timeout=60, capture_output=True)
    (tmp_path / "data.csv").write_text("untracked\n")
    clean = registry.commit_of(tmp_path)
    assert len(clean) == 40
    (tmp_path / "model.py").write_text("2\n")
    assert registry.commit_of(tmp_path) == f"{clean}-dirty"


@pytest.mark.parametrize("command", [("no-such-program-here",), ("false",), ("sleep", "60")])
def test_a_git_that_is_absent_fails_or_hangs_costs_a_field_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr("foundry_ray.registry.lineage._DESCRIBE", command)
    monkeypatch.setattr("foundry_ray.registry.lineage._TIMEOUT_S", 0.1)
    assert registry.commit_of(tmp_path) == ""
    config = PipelineConfig.model_validate({"name": "p", "data": {"source": "mnist_5k"}, "task": "image_classification"})
    assert keys.code(config) == {}
