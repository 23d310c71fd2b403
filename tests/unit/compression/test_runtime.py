"""The step `runtime`: a choice that is checked, counted, shipped and followed."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from foundry_ray import models
from foundry_ray.artifacts import manifests
from foundry_ray.compression import TrainedStudent, apply_recipe, effective, publish_student, recipe_from_params, runtime_of, served, simulate
from foundry_ray.config import ModelConfig
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.inference import open_choice, open_runtime, open_shipped, openvino, predict, shipped_runtime
from foundry_ray.protocols import Given, RuntimeChoice
from foundry_ray.types import Preprocessing, TokenSchema


def recipe(**params):
    return recipe_from_params({"width": 8, "depth": 1, **params})[1]


def test_plain_names_choose_what_runs_the_file():
    chosen = recipe(runtime="openvino", runtime_threads=2, runtime_precision="bf16")
    assert chosen.steps[-1].kind == "runtime"
    assert runtime_of(chosen) == RuntimeChoice(name="openvino", threads=2, precision="bf16")
    assert runtime_of(recipe()) == RuntimeChoice()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"runtime": "abacus"}, "there is no runtime 'abacus', wanted one of onnxruntime, openvino"),
        ({"runtime": "onnxruntime", "runtime_precision": "bf16"}, "onnxruntime got precision bf16, wanted fp32"),
        ({"runtime": "openvino", "runtime_threads": 1000}, "threads"),
        ({"runtime": "openvino", "runtime_precision": "int4"}, "precision"),
        ({"runtime": "tensorrt", "weight_bits": 8}, "runtime tensorrt with 8-bit weights, wanted 16 or 32"),
    ],
)
def test_what_no_runtime_can_be_asked_is_refused_at_plan_time(params, message):
    with pytest.raises(RecipeInfeasible, match=message):
        recipe(**params)


def test_a_runtime_that_is_not_installed_costs_no_training_and_says_how_to_get_it(model, schema, monkeypatch):
    openvino._core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RecipeInfeasible, match="needs the package openvino") as caught:
        apply_recipe(model, recipe(runtime="openvino"), Given(schema=schema), family="resnet")
    assert caught.value.hint == "pip install 'foundry-ray[openvino]'"


def test_students_that_differ_in_the_runtime_alone_are_not_the_same(model):
    found = [recipe(), recipe(runtime="onnxruntime"), recipe(runtime="openvino"), recipe(runtime="openvino", runtime_threads=2)]
    hashes = [effective(model, one) for one in found]
    assert hashes[0] == hashes[1], "the default by another name"
    assert len(set(hashes)) == 3


def test_a_student_ships_with_its_runtime_and_answers_in_it(trained, dataset, images, memory_store, clock, reporter):
    artifact = publish_student(
        recipe(runtime="openvino", runtime_threads=1, weight_bits=8),
        train=lambda: TrainedStudent(model=trained),
        dataset=dataset,
        calibration_NCHW=images[:64],
        parents=(),
        store=memory_store,
        clock=clock,
        reporter=reporter,
    )
    meta = manifests.load_manifest(memory_store, artifact.artifact.key).meta
    assert json.loads(manifests.read_file(memory_store, artifact.artifact.key, "signature.json"))["runtime"] == meta["runtime"]
    assert shipped_runtime(meta) == RuntimeChoice(name="openvino", threads=1)
    assert any(note.startswith("openvino in fp32 agrees with onnxruntime on ") for note in artifact.notes)
    assert "logits bit-equal in a fresh process" in artifact.notes
    onnx = manifests.read_file(memory_store, artifact.artifact.key, "model.onnx")
    runtime = open_shipped(onnx, meta)
    assert runtime.name == "openvino"
    assert np.array_equal(predict(memory_store, artifact, images[:8]), runtime.run(images[:8]))


STORAGES = [
    {},
    {"weight_bits": 8},
    {"quantize.bits": 8, "quantize.scheme": "dynamic"},
    {"quantize.bits": 8, "quantize.scheme": "weight_only"},
    {"quantize.bits": 4},
    {"quantize.bits": 16},
]


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: "-".join(str(value) for value in storage.values()) or "fp32")
@pytest.mark.parametrize("kind", ["images", "tokens"])
def test_both_runtimes_give_the_same_answers_however_a_student_is_stored(kind, storage, schema, images):
    rows, form, family = images[:48], schema, "resnet"
    if kind == "tokens":
        form, family = TokenSchema(length=12, vocab_size=50, has_labels=True, classes=("a", "b", "c"), padding=0), "transformer"
        rows = np.random.default_rng(0).integers(1, 50, (48, 12))
    preprocessing = Preprocessing(mean=(61.3,), std=(48.7,)) if kind == "images" else None
    model = models.build(ModelConfig(family=family, width=16, depth=1), form, preprocessing, seed=0).eval()
    onnx = served(model, recipe_from_params(storage)[1], form, rows)
    answers = [open_runtime(onnx, runtime=name).run(rows) for name in ("onnxruntime", "openvino")]
    difference = np.abs(answers[0] - answers[1]).max() / np.ptp(answers[0])
    assert difference < (0.06 if storage == {"weight_bits": 8} else 1e-4), "an integer may round to the next one, layer after layer"


def test_rungs_are_judged_in_the_runtime_that_the_recipe_names(model, images, schema):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    given = Given(schema=schema, inputs_N=images)
    for params in ({"runtime": "openvino", "weight_bits": 8}, {"weight_bits": 8}):
        chosen = recipe(**params)
        judged = simulate(model, images[:32], chosen, given=given)(torch.from_numpy(images[:16]).float())
        expected = open_choice(served(model, chosen, schema, images[:32]), runtime_of(chosen)).run(images[:16])
        np.testing.assert_array_equal(judged.numpy(), expected)
    assert simulate(model, images[:32], recipe(runtime="openvino"), given=given) is model, "in fp32 runtimes differ by rounding alone"


def test_products_in_bf16_are_judged_in_bf16(model, images, schema, monkeypatch):
    opened = []

    class Coarse:
        input_dtype = "uint8"

        def run(self, inputs_N):
            return np.zeros((len(inputs_N), 4), dtype=np.float32)

    monkeypatch.setattr("foundry_ray.compression.imitation.open_choice", lambda onnx, choice: opened.append(choice) or Coarse())
    chosen = recipe(runtime="openvino", runtime_precision="bf16")
    judged = simulate(model, images[:32], chosen, given=Given(schema=schema, inputs_N=images))
    assert not judged(torch.from_numpy(images[:4]).float()).any()
    assert opened == [RuntimeChoice(name="openvino", precision="bf16")]
