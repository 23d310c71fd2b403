"""A language model of the user's own, trained in one process, with a weight that two layers share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from foundry_ray import data, models, tasks
from foundry_ray.compression.cost import cost
from foundry_ray.config import DataConfig, ModelConfig, Settings, SplitConfig, TeacherConfig, TrainConfig
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.training.trainer import fit
from foundry_ray.types import DatasetRef, ModelArtifact

_SOURCE = """
from torch import nn


def tiny(schema, width=16):
    model = nn.Sequential(nn.Embedding(schema.vocab_size, width), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, schema.vocab_size, bias=False))
    model[3].weight = model[0].weight
    return model
"""
MODEL = ModelConfig(family="import:their_words:tiny", params={"width": 12})
TRAIN = TrainConfig(epochs=8, batch_size=16, lr=5e-2, precision="fp32", schedule="cosine", ema_decay=0.5)


@pytest.fixture(autouse=True)
def their_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_words.py").write_text(_SOURCE)
    yield
    sys.modules.pop("their_words", None)


@pytest.fixture
def counting(tmp_path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> DatasetRef:
    """Blocks that count on by one, two or three in a circle of 13."""
    starts, steps = np.meshgrid(np.arange(13), np.arange(1, 4))
    blocks = (starts.reshape(-1, 1) + steps.reshape(-1, 1) * np.arange(8)) % 13 + 13 * (steps.reshape(-1, 1) - 1)
    np.savez(tmp_path / "counting.npz", inputs=np.tile(blocks, (4, 1)), vocab_size=39)
    split = SplitConfig(train=0.7, val=0.15, test=0.15)
    config = DataConfig(source=str(tmp_path / "counting.npz"), split=split, clean={"duplicates": "keep"})
    return data.prepare(config, task="causal_lm", seed=0, store=store, settings=settings, reporter=reporter)


def trained(counting: DatasetRef, store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> ModelArtifact:
    return fit(
        TeacherConfig(model=MODEL, train=TRAIN, workers=1, micro_batch_size=8),
        task="causal_lm",
        dataset=counting,
        augment=(),
        seed=3,
        stage_key="k",
        store=store,
        settings=settings,
        reporter=reporter,
        session=None,
        export=None,
        cost=lambda model: cost(model, counting.schema),
        clock=FakeClock(),
    )


def test_a_language_model_learns_is_stored_and_answers_as_it_was_judged(
    counting: DatasetRef, store: MemoryStore, settings: Settings, reporter: RecordingReporter
) -> None:
    artifact = trained(counting, store, settings, reporter)
    model, val = models.load_model(store, artifact), data.load_split(counting, "val", store=store)
    with torch.no_grad():
        metrics = tasks.get("causal_lm").metrics(model(torch.from_numpy(val.inputs_N)).numpy(), val.labels_N)
    assert artifact.val_metrics["token_accuracy"] > 0.9
    assert metrics["token_accuracy"] == pytest.approx(artifact.val_metrics["token_accuracy"])
    assert metrics["nll"] == pytest.approx(artifact.val_metrics["val_loss"], rel=1e-5)
    assert model[3].weight is model[0].weight


def test_its_cost_counts_a_shared_weight_once_and_the_products_of_a_block(
    counting: DatasetRef, store: MemoryStore, settings: Settings, reporter: RecordingReporter
) -> None:
    model = models.build(MODEL, counting.schema, None, seed=0)
    assert cost(model, counting.schema) == (39 * 12 + 12 * 12 + 12, 8 * (12 * 12 + 12 * 39))
