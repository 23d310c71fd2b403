"""The evaluation stage: test is opened for the frozen student alone, and both are judged as they are served."""

from __future__ import annotations

import io

import numpy as np
import pytest

from foundry_ray import data
from foundry_ray.artifacts import manifests
from foundry_ray.config import GatesConfig, LatencyConfig
from foundry_ray.errors import ArtifactNotFound
from foundry_ray.evaluation import evaluate
from foundry_ray.inference import runtime_meta
from foundry_ray.protocols import RuntimeChoice
from foundry_ray.types import ArtifactRef, CompressionRecipe, DatasetRef, ImageSchema, ModelArtifact, Preprocessing, SplitInfo

from .files import linear
from .test_latency import TickingClock

CREATED = "2026-01-01T00:00:00+00:00"


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def dataset(memory_store):
    """200 images of 2 x 2; the label says whether even or odd pixels are brighter, and is wrong in 10 rows."""
    images = np.random.default_rng(0).integers(0, 256, (200, 1, 2, 2), dtype=np.uint8)
    sums = images.reshape(200, 2, 2).sum(axis=1, dtype=np.int64)
    labels = sums.argmax(axis=1)
    labels[:10] = 1 - labels[:10]
    files = {"test_images.npy": npy(images), "test_labels.npy": npy(labels)}
    ref = manifests.publish(memory_store, kind="dataset", files=files, created_at=CREATED)
    schema = ImageSchema(channels=1, height=2, width=2, dtype="uint8", classes=("even", "odd"))
    return DatasetRef(
        key=ref.key,
        fingerprint="f" * 64,
        task="image_classification",
        splits={"test": SplitInfo(num_rows=200, num_bytes=800)},
        schema=schema,
        preprocessing=Preprocessing(mean=(0.0,), std=(1.0,)),
    )


def published(store, onnx, *, meta=None, **sizes):
    ref = manifests.publish(store, kind="model", files={"model.onnx": onnx}, meta=meta, created_at=CREATED)
    return ModelArtifact(artifact=ref, family="resnet", size_bytes=1, recipe=CompressionRecipe(), **{"num_params": 80, "num_macs": 90, **sizes})


@pytest.fixture
def judged(memory_store, dataset, settings, reporter):
    def run(student_onnx, *, meta=None, **gates):
        teacher = published(memory_store, linear(1.0))
        student = published(memory_store, student_onnx, meta=meta, num_params=8)
        return evaluate(
            teacher,
            student,
            dataset=dataset,
            gates=GatesConfig(**gates),
            latency=LatencyConfig(budget_s=0.05),
            task="image_classification",
            store=memory_store,
            settings=settings,
            clock=TickingClock(),
            reporter=reporter,
        )

    return run


def test_a_student_that_answers_as_its_teacher_passes(judged):
    report = judged(linear(2.0), params_ratio=0.125, min_agreement=0.99)
    assert report.passed
    assert report.teacher.metrics["accuracy"].value == report.student.metrics["accuracy"].value == 0.95
    assert report.student.metrics["accuracy_drop"].value == 0.0
    assert report.agreement.value == 1.0
    assert report.student.size_bytes == len(linear(2.0)), "the bytes that are served, and not what the artifact says"
    assert report.student.latency[0].n >= 25
    assert (report.split, report.num_test_openings) == ("test", 1)


def test_a_student_that_answers_otherwise_is_a_result_and_no_exception(judged):
    report = judged(linear(-1.0), accuracy_drop_points=3.0)
    assert not report.passed
    [gate] = report.gates
    assert gate.value == pytest.approx(90.0)
    assert report.agreement.value == 0.0
    drop = report.student.metrics["accuracy_drop"]
    assert drop.ci_low < 0.9 < drop.ci_high


def test_a_student_that_fails_says_which_gate_and_which_class(judged):
    report = judged(linear(-1.0), accuracy_drop_points=100.0, class_drop_points=5.0, calibration_error=0.5, corruptions={"min_accuracy": 0.9})
    failed = {gate.name: (gate.relation, gate.limit) for gate in report.gates if not gate.passed}
    assert failed == {"class_drop_points": ("<=", 5.0), "calibration_error": ("<=", 0.5), "corruptions.min_accuracy": (">=", 0.9)}
    assert any(note.startswith(("class even loses most", "class odd loses most")) for note in report.notes)
    assert report.teacher.metrics["calibration_error"].value == pytest.approx(0.05, abs=0.01), "always sure, and wrong in 10 of 200"
    assert report.student.metrics["calibration_error"].value == pytest.approx(0.95, abs=0.01)
    assert report.num_test_openings == 1, "all of it on rows that were read once"


def test_what_no_gate_asks_for_is_not_in_the_report(judged):
    assert set(judged(linear(2.0)).student.metrics) == {"accuracy", "accuracy_drop", "nll", "recall_0", "recall_1"}


def test_a_student_is_judged_and_measured_in_the_runtime_that_it_ships_with(judged):
    report = judged(linear(2.0), meta=runtime_meta(RuntimeChoice(name="openvino", threads=1)), latency_p50_ms=1000.0)
    [ours], [theirs] = report.student.latency, report.teacher.latency
    assert ours.runtime.startswith("openvino ")
    others = [note for note in report.notes if note.startswith("the teacher takes ")]
    assert len(others) == 1, "the teacher was measured in both, and the faster one counts"
    assert ("openvino" in others[0]) != theirs.runtime.startswith("openvino")
    assert theirs.p50_ms <= float(others[0].split()[3]) + 5e-4
    assert report.student.metrics["accuracy"].value == 0.95


def test_each_evaluation_is_logged_under_the_hash_of_the_frozen_student(judged, memory_store, dataset):
    first = judged(linear(2.0))
    second = judged(linear(3.0))
    assert (first.num_test_openings, second.num_test_openings) == (1, 2)
    openings = [info.key for info in memory_store.list(f"test_openings/{dataset.fingerprint}/")]
    assert {key.split("/")[2] for key in openings} == {first.student.model_sha256, second.student.model_sha256}


def test_a_student_that_is_not_in_the_store_opens_no_test_set(memory_store, dataset, settings, reporter):
    teacher = published(memory_store, linear(1.0))
    lost = ArtifactRef(key=f"artifacts/model/{'0' * 64}.json", kind="model", sha256="0" * 64, size_bytes=1, created_at=CREATED)
    student = ModelArtifact(artifact=lost, family="resnet", num_params=1, num_macs=1, size_bytes=1, recipe=CompressionRecipe())
    with pytest.raises(ArtifactNotFound):
        evaluate(
            teacher,
            student,
            dataset=dataset,
            gates=GatesConfig(),
            latency=LatencyConfig(),
            task="image_classification",
            store=memory_store,
            settings=settings,
            clock=TickingClock(),
            reporter=reporter,
        )
    assert data.num_test_openings(dataset, memory_store) == 0
