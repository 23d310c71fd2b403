"""The student stage's end: what is published, what is proven, and what happens when the proof fails."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from foundry_ray import models
from foundry_ray.artifacts import manifests
from foundry_ray.compression import TrainedStudent, publish_student, recipe_from_params, to_onnx
from foundry_ray.compression.compress import _shipped
from foundry_ray.compression.parity import check_export, check_replay
from foundry_ray.errors import ParityFailed
from foundry_ray.inference import load_served, predict
from foundry_ray.protocols import RuntimeChoice


@pytest.fixture
def shipped(trained, dataset, images, memory_store, clock, reporter):
    def ship(**params):
        return publish_student(
            recipe_from_params({"width": 8, "depth": 1, **params})[1],
            train=lambda: TrainedStudent(model=trained, curve=({"loss": 1.0},), val_metrics={"accuracy": 0.99}),
            dataset=dataset,
            calibration_NCHW=images[:64],
            parents=("artifacts/model/teacher.json",),
            store=memory_store,
            clock=clock,
            reporter=reporter,
        )

    return ship


def test_an_int8_student_is_published_with_everything_that_it_needs(shipped, trained, images, memory_store):
    artifact = shipped(weight_bits=8)
    manifest = manifests.load_manifest(memory_store, artifact.artifact.key)
    assert set(manifest.files) == {"MODEL_CARD.md", "model.onnx", "model.safetensors", "architecture.json", "recipe.json", "signature.json"}
    assert artifact.size_bytes == manifest.files["model.onnx"].size_bytes == len(load_served(memory_store, artifact))
    assert manifest.meta["classes"] == ["zero", "one", "two", "three"]
    assert json.loads(manifests.read_file(memory_store, artifact.artifact.key, "signature.json")) == manifest.meta
    assert (artifact.family, artifact.parents, artifact.val_metrics) == ("resnet", ("artifacts/model/teacher.json",), {"accuracy": 0.99})
    assert artifact.num_params == sum(item.numel() for item in trained.parameters())
    assert (predict(memory_store, artifact, images).argmax(1) == np.arange(256) % 4).mean() > 0.95


def test_the_notes_state_what_was_proven(shipped):
    notes = " | ".join(shipped(weight_bits=8).notes)
    assert "of the logit range (64 val rows)" in notes
    assert "int8 agrees with fp32 on" in notes
    assert "64 training rows, sha256 " in notes
    assert "bit-equal in a fresh process" in notes


def test_an_fp32_student_can_be_loaded_back_into_torch(shipped, trained, images, memory_store):
    artifact = shipped()
    again = models.load_model(memory_store, artifact)
    pixels = torch.from_numpy(images[:4]).float()
    assert torch.equal(again(pixels), trained(pixels))
    assert not any("int8" in note for note in artifact.notes)


def test_publishing_the_same_student_again_gives_the_same_artifact(shipped, clock):
    first = shipped(weight_bits=8)
    clock.advance(100)
    assert shipped(weight_bits=8) == first


def broken(data: bytes) -> bytes:
    model = onnx.load_model_from_string(data)
    tensor = next(item for item in model.graph.initializer if item.name == "head.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    return model.SerializeToString()


def test_parity_is_proven_on_a_copy_on_the_cpu(trained, images, schema, monkeypatch):
    moved = []
    monkeypatch.setattr(torch.nn.Module, "cpu", lambda self: moved.append(self) or self)
    trained.train()
    check_export(trained, to_onnx(trained, schema), images[:8])
    assert trained.training
    assert len(moved) == 1
    assert moved[0] is not trained


def test_a_file_that_differs_from_the_model_is_refused(trained, images, schema):
    check_export(trained, to_onnx(trained, schema), images[:8])
    with pytest.raises(ParityFailed, match=r"of the logit range, wanted at most 0.0001") as caught:
        check_export(trained, broken(to_onnx(trained, schema)), images[:8])
    assert caught.value.max_abs_diff > caught.value.tolerance


def test_a_file_that_a_fresh_process_cannot_load_is_refused(trained, images, schema, monkeypatch):
    data = to_onnx(trained, schema)
    monkeypatch.setattr("foundry_ray.compression.parity.sys.executable", "/bin/false")
    with pytest.raises(ParityFailed, match="does not answer in a fresh process: no output"):
        check_replay(data, images[:2], RuntimeChoice())


def test_a_fresh_process_that_answers_otherwise_is_noticed(trained, images, schema, monkeypatch):
    data = to_onnx(trained, schema)
    monkeypatch.setattr("foundry_ray.compression.parity._replayed", lambda _, rows, choice: np.zeros((len(rows), 4), dtype=np.float32))
    with pytest.raises(ParityFailed, match="in a fresh process, wanted equal bits"):
        check_replay(data, images[:2], RuntimeChoice())


def test_an_int8_student_that_often_disagrees_is_a_warning(trained, dataset, images, memory_store, reporter):
    blank = np.full_like(images[:8], 61)
    _, notes = _shipped(trained, recipe_from_params({"weight_bits": 8})[1], dataset, blank, store=memory_store, reporter=reporter)
    [warning] = reporter.warnings
    assert re.search(r"int8 agrees with fp32 on \d\d?\.\d% of val predictions, wanted 99%; the accuracy gate decides", warning)
    assert any("of 256 val predictions" in note for note in notes)
