"""The evaluation stage attacks the weights of both models, and judges the files that are served."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from foundry_ray import models
from foundry_ray.artifacts import manifests
from foundry_ray.compression import to_onnx
from foundry_ray.config import GatesConfig, LatencyConfig, ModelConfig
from foundry_ray.evaluation import evaluate
from foundry_ray.types import CompressionRecipe, DatasetRef, ImageSchema, ModelArtifact, Preprocessing, SplitInfo, canonical_bytes

from .test_latency import TickingClock

CREATED = "2026-01-01T00:00:00+00:00"
SCHEMA = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("dark", "bright"))
PREPROCESSING = Preprocessing(mean=(125.0,), std=(70.0,))


def rows(num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that are darker or brighter than 125 by some 20."""
    labels = np.arange(num_rows) % 2
    noise = np.random.default_rng(seed).normal(105, 30, (num_rows, 1, 8, 8)) + 40 * labels[:, None, None, None]
    return noise.clip(0, 255).astype(np.uint8), labels


def trained() -> torch.nn.Module:
    model = models.build(ModelConfig(family="cnn", width=8, depth=1), SCHEMA, PREPROCESSING, seed=0).train()
    images, labels = rows(64, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(images).float()), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def dataset(memory_store):
    images, labels = rows(50, 1)
    files = {"test_images.npy": npy(images), "test_labels.npy": npy(labels)}
    ref = manifests.publish(memory_store, kind="dataset", files=files, created_at=CREATED)
    splits = {"test": SplitInfo(num_rows=50, num_bytes=images.nbytes)}
    return DatasetRef(key=ref.key, fingerprint="f" * 64, task="image_classification", splits=splits, schema=SCHEMA, preprocessing=PREPROCESSING)


def published(store, model):
    files = {
        "model.onnx": to_onnx(model, SCHEMA),
        "model.safetensors": models.tensors_to_bytes(model.state_dict()),
        "architecture.json": canonical_bytes(models.describe(model)),
    }
    ref = manifests.publish(store, kind="model", files=files, created_at=CREATED)
    return ModelArtifact(artifact=ref, family="cnn", size_bytes=1, num_params=1, num_macs=1, recipe=CompressionRecipe())


def test_adversarial_accuracy_of_both_is_in_the_report_and_decides(memory_store, dataset, settings, reporter):
    model = trained()
    teacher, student = published(memory_store, model), published(memory_store, model)
    attacks = [
        {"kind": "fgsm", "epsilon": 60, "min_accuracy": 0.9, "drop_points": 0.0},
        {"kind": "pgd", "epsilon": 60, "steps": 4, "min_accuracy": 0.9},
    ]
    report = evaluate(
        teacher,
        student,
        dataset=dataset,
        gates=GatesConfig(attacks=attacks),
        latency=LatencyConfig(budget_s=0.02),
        task="image_classification",
        store=memory_store,
        settings=settings,
        clock=TickingClock(),
        reporter=reporter,
    )
    clean, fgsm, pgd = (report.student.metrics[name].value for name in ("accuracy", "fgsm_60_accuracy", "pgd_60_4_accuracy"))
    assert clean == 1.0
    assert max(fgsm, pgd) < 0.5
    assert report.teacher.metrics["fgsm_60_accuracy"].value == fgsm, "the same weights, the same attack"
    assert [(gate.name, gate.passed) for gate in report.gates] == [
        ("accuracy_drop_points", True),
        ("fgsm_60.min_accuracy", False),
        ("fgsm_60.drop_points", True),
        ("pgd_60_4.min_accuracy", False),
    ]
    assert report.num_test_openings == 1
