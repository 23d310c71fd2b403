"""Compressing a model from Python alone: plain arrays in, a proven artifact out."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from foundry_ray import models
from foundry_ray.artifacts import manifests
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.compression import Fitting, Options, TrainedStudent, compress, fit_here
from foundry_ray.config import ModelConfig, TextConfig, TrainConfig
from foundry_ray.data import Split, load_split
from foundry_ray.data.tokenizer import fit as fit_tokenizer
from foundry_ray.errors import ConfigError, RecipeInfeasible
from foundry_ray.inference import predict, predict_files
from foundry_ray.protocols import Given
from foundry_ray.types import TokenSchema

LABELS = np.arange(256) % 4
TRAIN = TrainConfig(epochs=2, batch_size=16, lr=3e-3, precision="fp32", ema_decay=0.5)


@pytest.fixture
def smaller(trained, images, memory_store, clock, reporter):
    def make(recipe, data=None, teacher=None, fit=None, model=None, **changes):
        return compress(
            model or trained,
            recipe,
            data or (images, LABELS),
            teacher,
            fit,
            **{"train": TRAIN, "store": memory_store, "clock": clock, "reporter": reporter, "options": Options(device="cpu"), **changes},
        )

    return make


def test_plain_arrays_become_a_smaller_model_that_answers_alone(smaller, trained, images, memory_store):
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    artifact = smaller({"prune_ratio": 0.4, "distil_alpha": 0.5, "weight_bits": 8, "lr": 1e-3})
    assert artifact.num_params < sum(param.numel() for param in trained.parameters())
    assert (predict(memory_store, artifact, images).argmax(1) == LABELS).mean() > 0.95
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    assert [point["lr"] for point in artifact.curve][-1] < 1e-3
    assert artifact.val_metrics["accuracy"] > 0.9


def test_each_step_is_told_with_what_it_saved_and_cost(smaller, trained, memory_store):
    artifact = smaller({"width": 4, "depth": 1, "prune_ratio": 0.4, "distil_alpha": 0.5, "weight_bits": 8})
    told = json.loads(manifests.read_file(memory_store, artifact.artifact.key, "steps.json"))
    by_name = {row["name"]: row for row in told}
    assert list(by_name) in (["as given", "shrink", "trained", "quantize"], ["as given", "shrink", "prune", "trained", "quantize"])
    assert by_name["as given"]["num_params"] == sum(param.numel() for param in trained.parameters()) > by_name["shrink"]["num_params"]
    assert by_name["as given"]["num_macs"] > by_name["shrink"]["num_macs"]
    assert by_name["trained"]["num_params"] == artifact.num_params
    assert by_name["trained"]["size_bytes"] > by_name["quantize"]["size_bytes"] == artifact.size_bytes
    assert by_name["as given"]["value"] > 0.95 > by_name["shrink"]["value"]
    assert by_name["shrink"]["value"] < by_name["trained"]["value"]
    assert {(row["metric"], row["num_rows"]) for row in told} == {("accuracy", 26)}
    assert artifact.notes[0].startswith("as given: ")
    assert artifact.notes[0].endswith(" on 26 rows held back")


def test_rows_that_judge_are_never_trained_on(smaller, images, memory_store):
    seen: list[Fitting] = []

    def fit(work: Fitting) -> nn.Module:
        seen.append(work)
        return work.model.eval()

    smaller({"prune_ratio": 0.0}, fit=fit, options=Options(device="cpu", held_back_ratio=0.25, seed=7))
    [work] = seen
    train, held = (split.inputs_N.flatten(1) for split in (work.job.split_train, work.job.split_val))
    assert (len(train), len(held)) == (192, 64)
    assert not {row.numpy().tobytes() for row in train} & {row.numpy().tobytes() for row in held}
    assert {row.numpy().tobytes() for row in torch.cat((train, held))} == {row.tobytes() for row in images.reshape(256, -1)}


def test_a_fit_of_ones_own_trains_the_student(smaller, memory_store):
    def fit(work: Fitting) -> nn.Module:
        with torch.no_grad():
            work.model.head.bias.add_(torch.tensor([100.0, 0.0, 0.0, 0.0]))
        return work.model

    artifact = smaller({"width": 4, "depth": 1}, fit=fit)
    assert set(predict(memory_store, artifact, np.zeros((2, 1, 16, 16), np.uint8)).argmax(1)) == {0}
    assert artifact.curve == ()


def test_the_default_fit_can_be_called_by_a_fit_of_ones_own(smaller):
    def twice(work: Fitting) -> TrainedStudent:
        return fit_here(
            Fitting(model=fit_here(work).model.requires_grad_(True), job=work.job, device="cpu", reporter=work.reporter, clock=work.clock)
        )

    assert len(smaller({"width": 4, "depth": 1}, fit=twice).curve) == TRAIN.epochs


def test_a_folder_is_store_enough(smaller, tmp_path):
    artifact = smaller({"weight_bits": 8}, store=tmp_path / "here")
    again = models.load_model(LocalStore(tmp_path / "here"), artifact)
    assert not again.training


def test_the_data_is_kept_beside_the_model(smaller, images, memory_store):
    artifact = smaller({"weight_bits": 8})
    meta = manifests.load_manifest(memory_store, artifact.artifact.key).meta
    [key] = [info.key for info in memory_store.list("artifacts/dataset/")]
    assert manifests.load_manifest(memory_store, key).meta["fingerprint"] == meta["dataset"]
    assert len(smaller({"weight_bits": 8}).notes) == len(artifact.notes)
    assert len([*memory_store.list("artifacts/dataset/")]) == 1


@pytest.mark.parametrize("kind", ["features", "attention"])
def test_nothing_of_what_lies_between_the_layers_is_shipped(smaller, memory_store, kind):
    artifact = smaller({"width": 4, "depth": 1, "distil_alpha": 0.5, "distil.kind": kind})
    plain = smaller({"width": 4, "depth": 1})
    shapes = [
        {name: tuple(tensor.shape) for name, tensor in models.tensors_from_bytes(manifests.read_file(memory_store, key, "model.safetensors")).items()}
        for key in (artifact.artifact.key, plain.artifact.key)
    ]
    assert shapes[0] == shapes[1]
    assert artifact.size_bytes == plain.size_bytes
    assert artifact.curve != plain.curve


def test_rows_without_a_label_learn_from_the_teacher_and_judge_nothing(smaller, images, memory_store):
    labels = np.where(np.arange(256) < 64, LABELS, -1)
    recipe = {"width": 4, "depth": 1, "distil_alpha": 0.9, "epochs": 6}
    artifact = smaller(recipe, data=(images, labels))
    assert json.loads(manifests.read_file(memory_store, artifact.artifact.key, "steps.json"))[0]["num_rows"] == 6
    assert (predict(memory_store, artifact, images).argmax(1) == LABELS).mean() > 0.9
    with pytest.raises(ConfigError, match=r"192 of 250 training rows have no label \(below 0\), and no teacher answers for them"):
        smaller({"width": 4, "depth": 1}, data=(images, labels))


def test_a_student_that_is_trained_for_int8_with_a_mask_and_hints_is_told_of_too(smaller, memory_store):
    recipe = {"sparsify.pattern": "2:4", "distil_alpha": 0.3, "distil.kind": "features", "weight_bits": 8, "quantize.qat": True}
    artifact = smaller(recipe)
    told = json.loads(manifests.read_file(memory_store, artifact.artifact.key, "steps.json"))
    assert [row["name"] for row in told] == ["as given", "trained", "quantize"]
    assert any("2:4 is faster in the sparse kernels of a GPU alone" in note for note in artifact.notes)


@pytest.mark.parametrize("source", ["cached", "online"])
def test_several_teachers_teach_as_one(smaller, trained, source):
    recipe = {"width": 4, "depth": 1, "distil_alpha": 1.0, "distil.source": source}
    lying = models.rebuild(models.describe(trained)).eval()
    curves = [smaller(recipe, teacher=teacher).curve for teacher in (trained, [trained, trained], [trained, lying])]
    assert [point["loss"] for point in curves[0]] == pytest.approx([point["loss"] for point in curves[1]], rel=1e-4)
    assert [point["loss"] for point in curves[0]] != pytest.approx([point["loss"] for point in curves[2]], rel=1e-2)


def test_tokens_and_what_steps_are_given_are_taken_too(smaller, memory_store):
    drawn = np.random.default_rng(0)
    tokens = drawn.integers(4, 20, (96, 6)).astype(np.int32)
    labels = (tokens == 7).any(1).astype(np.int64)
    schema = TokenSchema(length=6, vocab_size=20, has_labels=True, classes=("no", "yes"))
    model = models.build(ModelConfig(family="mlp", width=8, depth=1), schema, None, seed=0).eval()
    given = Given(schema=schema, task="text_classification", inputs_N=tokens, labels_N=labels)
    artifacts = [
        smaller({"distil_alpha": 0.3}, data=data, model=model) for data in ((tokens, labels), given, Split(inputs_N=tokens, labels_N=labels))
    ]
    assert predict(memory_store, artifacts[0], tokens.astype(np.int64)).shape == (96, 2)
    assert len({artifact.num_params for artifact in artifacts}) == 1


def test_a_tokenizer_travels_with_the_model_which_then_reads_texts(smaller, memory_store, tmp_path):
    texts = [f"{first} {second} {third}" for first in ("red", "green") for second in ("cat", "dog", "owl") for third in ("runs", "sleeps")] * 8
    tokenizer = fit_tokenizer(texts, TextConfig(length=8, vocab_size=64))
    ids, labels = tokenizer.encode(texts), np.array([int("dog" in text) for text in texts])
    schema = TokenSchema(length=8, vocab_size=tokenizer.vocab_size, has_labels=True, classes=("no", "yes"), padding=tokenizer.padding)
    model = models.build(ModelConfig(family="mlp", width=16, depth=1), schema, None, seed=0)
    options = Options(device="cpu", tokenizer=tokenizer.document)
    artifact = smaller({"trim_vocabulary.min_count": 1, "lr": 3e-2, "epochs": 6}, data=(ids, labels), model=model, options=options)
    source = tmp_path / "texts.txt"
    source.write_text("a dog runs\nthe green owl\n")
    assert [row["class"] for row in predict_files(memory_store, artifact, source)] == ["1", "0"]
    with pytest.raises(ConfigError, match=r"`tokenizer` is no tokenizer"):
        smaller({}, data=(ids, labels), model=model, options=Options(tokenizer="{}"))
    narrow = models.build(ModelConfig(family="mlp", width=16, depth=1), dataclasses.replace(schema, vocab_size=12), None, seed=0)
    with pytest.raises(ConfigError, match=f"a tokenizer of {tokenizer.vocab_size} tokens for a model of 12"):
        smaller({}, data=(ids % 12, labels), model=narrow, options=options)


def test_a_model_of_ones_own_is_compressed_and_what_it_lacks_is_said(smaller, images, memory_store, reporter):
    own = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    artifact = smaller({"sparsify.ratio": 0.5, "distil_alpha": 0.5, "weight_bits": 8}, model=own)
    files = manifests.load_manifest(memory_store, artifact.artifact.key).files
    assert "model.onnx" in files
    assert "architecture.json" not in files
    assert predict(memory_store, artifact, images[:5]).shape == (5, 4)
    assert any("Sequential belongs to no model family" in warning for warning in reporter.warnings)
    assert any("are zero (unstructured)" in note for note in artifact.notes)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.zeros((8, 1, 16, 16), np.float32), np.zeros(8)), r"inputs float32 \(8, 1, 16, 16\) and labels \(8,\), wanted images or token ids"),
        ((np.zeros((8, 1, 16, 16), np.uint8), np.full(8, 4)), "the label 4, but the model answers with 4 classes"),
        ((np.zeros((8, 1, 16, 16), np.uint8), np.zeros(7)), "got 8 inputs and 7 labels"),
        ((np.zeros((8, 1, 16, 16), np.uint8), np.full(8, -1)), "hold 0 rows of 0 with a label back"),
        ((np.zeros((8, 1, 16, 16), np.uint8), np.full(8, 0.7)), "got labels of float64, wanted whole numbers"),
        ((np.zeros((8, 2, 9, 9), np.uint8), np.zeros(8)), r"does not run on inputs of shape \(1, 2, 9, 9\)"),
    ],
)
def test_arrays_that_are_something_else_are_refused(smaller, data, message):
    with pytest.raises(ConfigError, match=message):
        smaller({"weight_bits": 8}, data=data)


def test_a_model_of_other_floats_is_compressed_in_fp32_and_left_as_it_was(smaller, trained, images):
    half = copy.deepcopy(trained).bfloat16().train()
    half.norm = nn.BatchNorm1d(2).eval()
    artifact = smaller({"prune_ratio": 0.4, "prune.criterion": "taylor", "distil_alpha": 0.5}, model=half, data=[images, LABELS])
    assert artifact.num_params < sum(param.numel() for param in trained.parameters())
    assert {param.dtype for param in half.parameters()} == {torch.bfloat16, torch.float32}
    assert (half.training, half.norm.training, half.head.weight.grad) == (True, False, None)


def test_a_model_with_nothing_to_train_is_refused(smaller, trained):
    with pytest.raises(ConfigError, match="without a weight that is trained"):
        smaller({"weight_bits": 8}, model=trained.requires_grad_(False))


def test_a_model_that_cannot_be_copied_is_refused_with_torchs_reason(smaller, images):
    with pytest.warns(FutureWarning, match="deprecated"):
        normed = torch.nn.utils.weight_norm(nn.Linear(256, 4))
    model = nn.Sequential(nn.Flatten(), normed)
    model(torch.from_numpy(images[:1]).float())
    with pytest.raises(ConfigError, match="got a Sequential that cannot be copied: Only Tensors created explicitly"):
        smaller({"weight_bits": 8}, model=model)


def test_a_uri_is_a_store_and_no_folder_of_that_name(smaller, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    artifact = smaller({}, store=f"file://{tmp_path}/kept")
    assert manifests.load_manifest(LocalStore(tmp_path / "kept"), artifact.artifact.key).files
    with pytest.raises(ConfigError, match="no kind of store"):
        smaller({}, store="gs://bucket/models")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_names_that_mean_nothing_are_refused(smaller):
    with pytest.raises(ConfigError, match="prune_rati"):
        smaller({"prune_rati": 0.5})
    with pytest.raises(RecipeInfeasible, match="pattern is 2:4"):
        smaller({"sparsify.pattern": "2:4", "sparsify.ratio": 0.3})


def test_mixing_goes_with_a_teacher_in_the_step_alone(smaller):
    recipe = {"width": 4, "depth": 1, "distil_alpha": 0.5, "mixup_alpha": 0.2}
    with pytest.raises(ConfigError, match="while distilling"):
        smaller(recipe)
    assert smaller({**recipe, "distil.source": "online"}).curve


def test_the_split_that_judges_is_stored_as_val(smaller, memory_store):
    from foundry_ray.compression.toolbox_data import rows_of

    images = np.zeros((20, 1, 16, 16), np.uint8)
    rows = rows_of((images, np.arange(20) % 4), nn.Sequential(nn.Flatten(), nn.Linear(256, 4)), held_back_ratio=0.2, seed=1)
    ref = rows.published(memory_store)
    assert [len(load_split(ref, name, store=memory_store).labels_N) for name in ("train", "val")] == [16, 4]


def test_a_step_that_comes_to_nothing_is_told(smaller, trained, reporter):
    artifact = smaller({"prune.ratio": 0.01}, fit=lambda work: work.model)
    assert artifact.num_params == sum(param.numel() for param in trained.parameters())
    assert "prune takes nothing out of this model: what it asks for rounds to nothing." in reporter.warnings
