"""Texts and ids from files, and a stored model that answers about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foundry_ray import models
from foundry_ray.artifacts import manifests
from foundry_ray.compression import to_onnx
from foundry_ray.compression.compress import _meta
from foundry_ray.config import ModelConfig, TextConfig
from foundry_ray.data.tokenizer import FILE, Tokenizer, fit
from foundry_ray.errors import BadRecord, DataError
from foundry_ray.inference import predict_files
from foundry_ray.inference.reading_text import read_rows
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import CompressionRecipe, DatasetRef, ModelArtifact, TokenSchema


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return fit(["win money now", "the minutes of our meeting"], TextConfig(vocab_size=100, length=6))


def test_texts_are_read_a_line_each_or_by_their_column(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("win money\n\nthe minutes\n")
    (tmp_path / "a.csv").write_text("n,text\n1,win money\n2,the minutes\n")
    (tmp_path / "a.jsonl").write_text('{"text": "win money"}\n{"text": "the minutes"}\n')
    expected = tokenizer.encode(["win money", "the minutes"])
    for name in ("a.txt", "a.csv", "a.jsonl"):
        names, ids = read_rows(tmp_path / name, length=6, tokenizer=tokenizer)
        assert names == (f"{name}[0]", f"{name}[1]")
        assert ids.dtype == np.int64
        assert np.array_equal(ids, expected)


def test_ids_are_taken_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.ones((2, 6), dtype=np.int32))
    names, ids = read_rows(tmp_path / "ids.npy", length=6, tokenizer=None)
    assert (names, ids.dtype, ids.shape) == (("ids.npy[0]", "ids.npy[1]"), np.int64, (2, 6))
    with pytest.raises(BadRecord, match=r"is int32 of shape \(2, 6\), wanted integers of shape \(N, 5\)"):
        read_rows(tmp_path / "ids.npy", length=5, tokenizer=None)


def test_what_is_no_text_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.csv").write_text("n,text\n1,win\n2,\n")
    (tmp_path / "a.txt").write_bytes(b"win \xff")
    (tmp_path / "a.pdf").write_bytes(b"")
    for name, kind, message in (
        ("a.csv", BadRecord, "row 1 has no text"),
        ("a.txt", BadRecord, "is not UTF-8: byte 4"),
        ("a.pdf", DataError, "is no file of texts"),
        ("b.txt", DataError, "does not exist"),
    ):
        with pytest.raises(kind, match=message):
            read_rows(tmp_path / name, length=6, tokenizer=tokenizer)
    with pytest.raises(DataError, match="the model came without a tokenizer"):
        read_rows(tmp_path / "a.csv", length=6, tokenizer=None)


def test_a_stored_model_answers_about_texts_by_the_tokenizer_beside_it(tmp_path: Path, tokenizer: Tokenizer, memory_store: MemoryStore) -> None:
    schema = TokenSchema(length=6, vocab_size=tokenizer.vocab_size, has_labels=True, classes=("ham", "spam"), padding=0)
    model = models.build(ModelConfig(family="mlp", width=4, depth=1), schema, None, seed=0).eval()
    files = {"model.onnx": to_onnx(model, schema), FILE: tokenizer.document.encode()}
    meta = {"task": "text_classification", "classes": ["ham", "spam"]}
    ref = manifests.publish(memory_store, kind="model", files=files, meta=meta, created_at="2026-01-01T00:00:00+00:00")
    artifact = ModelArtifact(artifact=ref, family="mlp", num_params=1, num_macs=1, size_bytes=1, recipe=CompressionRecipe())
    (tmp_path / "mails.txt").write_text("win money now\n")
    [answer] = predict_files(memory_store, artifact, tmp_path / "mails.txt")
    assert answer["input"] == "mails.txt[0]"
    assert answer["class"] in ("ham", "spam")
    assert answer["probability"] == pytest.approx(max(answer["probabilities"].values()))


@pytest.mark.parametrize(("wrong", "vocab_size", "wanted"), [(40, 40, r"0\.\.39"), (-1, 40, r"0\.\.39"), (-1, None, "0 or more")])
def test_an_id_that_the_vocabulary_does_not_have_is_refused(tmp_path: Path, wrong: int, vocab_size: int | None, wanted: str) -> None:
    """Of one and the same file onnxruntime would break off, and OpenVINO answer."""
    ids = np.ones((3, 6), dtype=np.int64)
    ids[1, 4] = wrong
    np.save(tmp_path / "ids.npy", ids)
    with pytest.raises(BadRecord, match=rf"the id \[1, 4\] is {wrong}, wanted {wanted}"):
        read_rows(tmp_path / "ids.npy", length=6, tokenizer=None, vocab_size=vocab_size)


def test_the_signature_of_a_model_says_how_many_ids_it_knows(tmp_path: Path, memory_store: MemoryStore) -> None:
    schema = TokenSchema(length=6, vocab_size=40, has_labels=True, classes=("ham", "spam"))
    model = models.build(ModelConfig(family="mlp", width=4, depth=1), schema, None, seed=0).eval()
    dataset = DatasetRef(key="d", fingerprint="f", task="text_classification", splits={}, schema=schema, preprocessing=None)
    meta = _meta(model, CompressionRecipe(), dataset, ())
    ref = manifests.publish(
        memory_store, kind="model", files={"model.onnx": to_onnx(model, schema)}, meta=meta, created_at="2026-01-01T00:00:00+00:00"
    )
    artifact = ModelArtifact(artifact=ref, family="mlp", num_params=1, num_macs=1, size_bytes=1, recipe=CompressionRecipe())
    np.save(tmp_path / "ids.npy", np.full((1, 6), 40))
    with pytest.raises(BadRecord, match=r"the id \[0, 0\] is 40, wanted 0\.\.39"):
        list(predict_files(memory_store, artifact, tmp_path / "ids.npy"))
