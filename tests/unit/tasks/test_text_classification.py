"""One class per text."""

from __future__ import annotations

import numpy as np
import pytest

from foundry_ray import tasks
from foundry_ray.errors import ConfigError
from foundry_ray.types import ImageSchema, TokenSchema


def test_it_learns_from_rows_of_tokens_with_one_class_each() -> None:
    task = tasks.get("text_classification")
    task.check(TokenSchema(length=4, vocab_size=9, has_labels=True, classes=("ham", "spam")))
    logits = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert task.metrics(logits, np.array([0, 0]))["accuracy"] == 0.5
    assert task.prediction(logits[0], ("ham", "spam"))["class"] == "ham"


def test_anything_else_is_refused() -> None:
    task = tasks.get("text_classification")
    with pytest.raises(ConfigError, match="got token ids without a class per row, wanted texts or token ids with one class each"):
        task.check(TokenSchema(length=4, vocab_size=9))
    with pytest.raises(ConfigError, match="got images"):
        task.check(ImageSchema(channels=1, height=2, width=2, dtype="uint8", classes=("a",)))
