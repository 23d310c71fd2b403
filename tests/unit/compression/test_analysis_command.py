"""`foundry analyze`, on a run whose teacher and data lie in a store."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from foundry_ray import models
from foundry_ray.artifacts import manifests
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.cli.main import app
from foundry_ray.cli.output import run_app
from foundry_ray.registry import register
from foundry_ray.runlog import save_run
from foundry_ray.testing import samples
from foundry_ray.testing.clock import FakeClock
from foundry_ray.types import DatasetRef, Preprocessing, RunRecord, RunStatus, SplitInfo, StageRecord, StageStatus, canonical_bytes, to_json

from .conftest import SCHEMA, built

RUN = "corners-20260101-000000-aaaa"
WHEN = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def foundry(tmp_path, images, monkeypatch, capsys) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Runs a command on a store with a finished teacher, registered as corners:1."""
    store = LocalStore(tmp_path / "store")
    arrays = {"train_images.npy": images, "train_labels.npy": np.arange(len(images), dtype=np.int64) % 4}
    files = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        files[name] = buffer.getvalue()
    split = SplitInfo(num_rows=len(images), num_bytes=images.nbytes)
    dataset = DatasetRef(
        key=manifests.publish(store, kind="dataset", files=files, created_at=WHEN).key,
        fingerprint="f" * 64,
        task="image_classification",
        splits={"train": split},
        schema=SCHEMA,
        preprocessing=Preprocessing(mean=(61.3,), std=(48.7,)),
    )
    model = built(images, width=16)
    stored = {"architecture.json": canonical_bytes(models.describe(model)), "model.safetensors": models.tensors_to_bytes(model.state_dict())}
    teacher = replace(samples.model("teacher"), artifact=manifests.publish(store, kind="model", files=stored, created_at=WHEN))
    outputs = {"data": to_json(dataset), "teacher": to_json(teacher)}
    stages = tuple(StageRecord(name=name, key=name * 8, status=StageStatus.DONE, outputs=value) for name, value in outputs.items())
    save_run(store, RunRecord(run_id=RUN, pipeline="corners", config={}, versions={}, stages=stages, status=RunStatus.DONE, started_at=WHEN))
    register(store, name="corners", model=teacher, report_key="", passed=True, run_id=RUN, clock=FakeClock())
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOUNDRY_STORE", store.uri)

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["foundry", *args])
        return run_app(app), *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, before)


def test_a_run_s_teacher_is_taken_apart(foundry, tmp_path):
    plot = tmp_path / "anatomy.svg"
    code, out, err = foundry("analyze", "latest", "--ratio", "0.5", "--rows", "32", "--limit", "num_macs <= 2e6", "--plot", str(plot))
    assert (code, err.count("error")) == (0, 0)
    for said in ("groups of coupled channels", "on 32 held-back training rows", "-50%", "limit num_macs <= 2e+06: kept from prune_ratio"):
        assert said in out
    assert plot.read_text().startswith("<svg")


def test_a_registered_version_is_one_json_document(foundry):
    code, out, _ = foundry("analyze", "corners:1", "--quick", "--no-profile", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["latency_ms"] is None
    assert document["sensitivities"] == []
    assert sum(layer["num_params"] for layer in document["layers"]) == document["num_params"]


def test_what_cannot_be_looked_at_is_said(foundry):
    code, _, err = foundry("analyze", "latest", "--quick", "--no-profile", "--limit", "accuracy >= 0.9")
    assert (code, "wanted one on a cost" in err) == (2, True)
    code, _, err = foundry("analyze", "latest", "--student", "--quick", "--no-profile")
    assert (code, "has no finished study" in err) == (2, True)
