"""Models to register, reports about them, and a store that counts what it is asked."""

from __future__ import annotations

from dataclasses import replace

from foundry_ray import registry
from foundry_ray.artifacts.manifests import publish, put_json
from foundry_ray.protocols import ArtifactStore
from foundry_ray.testing import samples
from foundry_ray.testing.clock import FakeClock
from foundry_ray.types import CompressionRecipe, EvaluationReport, Json, Lineage, ModelArtifact, RegistryEntry, to_json

NOTE = registry.Note(by="ann@desk", at="2026-01-01T00:00:00+00:00", reason="because")


def put_model(store: ArtifactStore, weights: bytes) -> ModelArtifact:
    artifact = publish(store, kind="model", files={"model.onnx": weights}, created_at="2024-01-01")
    return ModelArtifact(artifact=artifact, family="resnet", num_params=10, num_macs=20, size_bytes=len(weights), recipe=CompressionRecipe())


def put_report(store: ArtifactStore, model: ModelArtifact, *, passed: bool = True, key: str = "stages/evaluation/1.json") -> str:
    """The result of an evaluation stage about this model; returns its key."""
    report: EvaluationReport = samples.report(passed=passed)
    report = replace(report, student=replace(report.student, model_sha256=model.artifact.sha256))
    put_json(store, key, {"outputs": to_json(report)})
    return key


def put_version(store: ArtifactStore, weights: bytes, *, passed: bool = True, name: str = "mnist", lineage: Lineage | None = None) -> RegistryEntry:
    """A registered model, with a report of its own."""
    model = put_model(store, weights)
    report = put_report(store, model, passed=passed, key=f"stages/evaluation/{weights.hex()}.json")
    return registry.register(
        store, name=name, model=model, report_key=report, passed=passed, run_id="run-1", clock=FakeClock(), lineage=lineage, by="ann@desk"
    )


def put_old_moves(store: ArtifactStore, *versions: int, name: str = "mnist", alias: str = "champion") -> None:
    """An alias' history as foundry 0.1 wrote it."""
    for number, version in enumerate(versions, 1):
        move: dict[str, Json] = {"number": number, "version": version, "previous": versions[number - 2] if number > 1 else None}
        put_json(store, f"registry/{name}/aliases/{alias}/{number:08d}", {**move, "moved_at_s": 0.0, "format_version": 1})


def lineage() -> Lineage:
    return Lineage(
        run_id="run-1",
        dataset_key="artifacts/dataset/d.json",
        dataset_fingerprint="f" * 64,
        teacher="artifacts/model/t.json",
        teacher_sha256="t" * 64,
        study_key="k" * 32,
        trial=samples.trial(0, 0.97, 0.1),
        config={"name": "mnist", "seed": 3, "data": {"source": "mnist_5k", "split": {"train": 3500, "val": 500, "test": 1000}}},
        stages={"data": "d" * 32},
        seeds={"run": 3, "trial": 0},
        versions={"ray": "2.60.0"},
        code={"foundry_ray": "0.1.0", "commit": "c" * 40},
    )
