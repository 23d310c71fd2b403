"""The classification task."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foundry_ray import tasks
from foundry_ray.errors import ConfigError

LOGITS = np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 4.0, 0.0], [np.nan, 0.0, 0.0]], dtype=np.float32)
LABELS = np.array([0, 1, 2, 0])


def test_metrics_by_hand() -> None:
    metrics = tasks.get("image_classification").metrics(LOGITS[:3], LABELS[:3])
    likely = math.log(math.exp(4) + 2) - 4
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["nll"] == pytest.approx((2 * likely + likely + 4) / 3)
    assert [metrics[f"recall_{label}"] for label in range(3)] == [1.0, 1.0, 0.0]


def test_the_mean_of_correct_is_the_primary_metric_and_nan_is_wrong() -> None:
    task = tasks.get("image_classification")
    assert task.correct(LOGITS, LABELS).tolist() == [1.0, 1.0, 0.0, 0.0]
    assert task.correct(LOGITS[:3], LABELS[:3]).mean() == task.metrics(LOGITS[:3], LABELS[:3])[task.primary_metric]


def test_loss_is_cross_entropy_in_fp32_with_smoothing() -> None:
    task = tasks.get("image_classification")
    logits_BC, labels_B = torch.tensor(LOGITS[:3]).bfloat16(), torch.tensor(LABELS[:3])
    log_BC = logits_BC.float().log_softmax(1)
    plain = -log_BC[range(3), labels_B].mean()
    torch.testing.assert_close(task.loss(logits_BC, labels_B), plain)
    torch.testing.assert_close(task.loss(logits_BC, labels_B, label_smoothing=0.3), 0.7 * plain - 0.3 * log_BC.mean())


def test_a_prediction_names_the_class_and_its_probability() -> None:
    answer = tasks.get("image_classification").prediction(LOGITS[1], ("ant", "bee", "cat"))
    assert (answer["class"], answer["label"]) == ("bee", 1)
    assert answer["probability"] == pytest.approx(math.exp(4) / (math.exp(4) + 2))
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="no task 'guessing', wanted one of causal_lm, image_classification"):
        tasks.get("guessing")
