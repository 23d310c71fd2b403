"""Prediction from the store: arrays, image files, folders; and what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from foundry_ray import inference
from foundry_ray.artifacts import manifests
from foundry_ray.errors import ArtifactCorrupt, BadRecord, DataError
from foundry_ray.types import CompressionRecipe, ModelArtifact

from .test_runtime import doubled

META = {"task": "image_classification", "classes": [f"pixel {index}" for index in range(8)]}


@pytest.fixture
def model(memory_store):
    return published(memory_store, META)


def published(store, meta):
    ref = manifests.publish(store, kind="model", files={"model.onnx": doubled()}, meta=meta, created_at="2026-01-01T00:00:00+00:00")
    return ModelArtifact(artifact=ref, family="resnet", num_params=0, num_macs=0, size_bytes=0, recipe=CompressionRecipe())


def bright(index):
    image = np.zeros((4, 2), dtype=np.uint8)
    image.flat[index] = 200
    return image


def classes(answers):
    return [(answer["input"], answer["class"]) for answer in answers]


def test_an_array_is_predicted_row_by_row(model, memory_store, tmp_path):
    np.save(tmp_path / "rows.npy", np.stack([bright(3), bright(5)]))
    answers = inference.predict_files(memory_store, model, tmp_path / "rows.npy")
    assert classes(answers) == [("rows.npy[0]", "pixel 3"), ("rows.npy[1]", "pixel 5")]


def test_a_folder_is_read_in_the_order_of_its_names(model, memory_store, tmp_path):
    for name, index in (("b/one.png", 1), ("a.png", 6)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(bright(index)).save(tmp_path / name)
    assert classes(inference.predict_files(memory_store, model, tmp_path)) == [("a.png", "pixel 6"), ("b/one.png", "pixel 1")]


def test_a_colour_image_is_converted_to_what_the_model_takes(model, memory_store, tmp_path):
    Image.fromarray(bright(2)).convert("RGB").save(tmp_path / "rgb.png")
    assert classes(inference.predict_files(memory_store, model, tmp_path / "rgb.png")) == [("rgb.png", "pixel 2")]


def test_an_image_of_another_size_is_refused(model, memory_store, tmp_path):
    Image.new("L", (9, 7)).save(tmp_path / "big.png")
    with pytest.raises(BadRecord, match=r"big.png is 7 x 9 pixels, wanted 4 x 2"):
        list(inference.predict_files(memory_store, model, tmp_path / "big.png"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("bad.png", b"no image", "bad.png is no readable image"), ("bad.npy", b"no array", "bad.npy is no readable .npy file")],
)
def test_an_unreadable_file_is_named(name, content, message, model, memory_store, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRecord, match=message):
        list(inference.predict_files(memory_store, model, tmp_path / name))


def test_an_array_of_another_form_is_refused(model, memory_store, tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((2, 4, 2)))
    with pytest.raises(BadRecord, match=r"is float64 of shape \(2, 1, 4, 2\), wanted uint8 of shape \(N, 1, 4, 2\)"):
        list(inference.predict_files(memory_store, model, tmp_path / "rows.npy"))


def test_nothing_to_read_is_an_error(model, memory_store, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        list(inference.predict_files(memory_store, model, tmp_path / "nowhere"))
    with pytest.raises(DataError, match="holds no images"):
        list(inference.predict_files(memory_store, model, tmp_path))


def test_a_model_without_a_signature_cannot_name_its_answers(memory_store, tmp_path):
    with pytest.raises(ArtifactCorrupt, match="has no signature"):
        list(inference.predict_files(memory_store, published(memory_store, None), tmp_path))


def test_arrays_need_no_signature(memory_store):
    logits = inference.predict(memory_store, published(memory_store, None), bright(4)[None, None])
    assert logits.argmax(axis=1).tolist() == [4]
