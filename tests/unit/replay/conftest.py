"""A registered version with everything that a replay reads, in a store in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foundry_ray import registry
from foundry_ray.artifacts.manifests import publish
from foundry_ray.runlog import StageResult, commit_result
from foundry_ray.testing import samples
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import Lineage, RegistryEntry, to_json

STAGES = {name: name[0] * 32 for name in ("data", "teacher", "search", "student", "evaluation", "registry")}
CONFIG = {"name": "mnist", "seed": 3, "data": {"source": "mnist_5k", "split": {"train": 3500, "val": 500, "test": 1000}}}


def lineage_of(store: MemoryStore) -> Lineage:
    teacher = publish(store, kind="model", files={"model.safetensors": b"teacher"}, created_at="")
    return Lineage(
        run_id="run-1",
        dataset_key="artifacts/dataset/d.json",
        dataset_fingerprint="f" * 64,
        teacher=teacher.key,
        teacher_sha256=teacher.sha256,
        study_key="k" * 32,
        trial=samples.trial(0, 0.97, 0.1),
        config=CONFIG,
        stages=STAGES,
        seeds={"run": 3, "trial": 0},
        versions={"ray": "2.60.0"},
        code={"foundry_ray": "0.1.0"},
    )


def put_version(store: MemoryStore, lineage: Lineage | None) -> RegistryEntry:
    artifact = publish(store, kind="model", files={"model.onnx": b"served", "model.safetensors": b"student"}, created_at="")
    result = StageResult(outputs=to_json(samples.report()), run_id="run-1", created_at="", duration_s=1.0, versions={})
    commit_result(store, "evaluation", STAGES["evaluation"], result)
    return registry.register(
        store,
        name="mnist",
        model=replace(samples.model(), artifact=artifact),
        report_key=f"stages/evaluation/{STAGES['evaluation']}.json",
        passed=True,
        run_id="run-1",
        clock=FakeClock(),
        lineage=lineage,
    )


@pytest.fixture
def lineage(store: MemoryStore) -> Lineage:
    return lineage_of(store)
