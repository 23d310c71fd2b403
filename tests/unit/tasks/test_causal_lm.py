"""The task of the next token."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foundry_ray import tasks
from foundry_ray.errors import ConfigError
from foundry_ray.schemas import ImageSchema, TokenSchema

TASK = tasks.get("causal_lm")
LABELS = np.array([[0, 1, 2, 3], [3, -100, 1, -100]])
LOGITS = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)


def nats_by_hand() -> np.ndarray:
    """Per sample: the mean over its labels of minus the log of the probability that the place before gives them."""
    log_NTV = LOGITS - np.log(np.exp(LOGITS).sum(axis=2, keepdims=True))
    first = -np.mean([log_NTV[0, 0, 1], log_NTV[0, 1, 2], log_NTV[0, 2, 3]])
    return np.array([first, -log_NTV[1, 1, 1]])


def test_the_loss_is_of_the_next_token_and_each_sample_counts_alike() -> None:
    loss = TASK.loss(torch.tensor(LOGITS), torch.tensor(LABELS))
    assert loss.item() == pytest.approx(nats_by_hand().mean(), rel=1e-6)


def test_micro_batches_add_up_to_the_batch_whatever_is_ignored() -> None:
    parts = [TASK.loss(torch.tensor(LOGITS[row : row + 1]), torch.tensor(LABELS[row : row + 1])) for row in range(2)]
    assert torch.stack(parts).mean().item() == pytest.approx(TASK.loss(torch.tensor(LOGITS), torch.tensor(LABELS)).item(), rel=1e-6)


def test_smoothing_is_spread_over_the_vocabulary_in_fp32() -> None:
    logits_BTV, labels_BT = torch.tensor(LOGITS[:1]).bfloat16(), torch.tensor(LABELS[:1])
    log_TV = logits_BTV.float().log_softmax(2)[0, :3]
    plain = -log_TV[range(3), labels_BT[0, 1:]].mean()
    torch.testing.assert_close(TASK.loss(logits_BTV, labels_BT, label_smoothing=0.3), 0.7 * plain - 0.3 * log_TV.mean())


def test_metrics_by_hand() -> None:
    metrics = TASK.metrics(LOGITS, LABELS)
    assert metrics["nll"] == pytest.approx(nats_by_hand().mean(), rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["nll"]))
    assert metrics["token_accuracy"] == TASK.correct(LOGITS, LABELS).mean()


def test_the_score_of_a_sample_is_its_share_of_right_tokens_and_nan_is_wrong() -> None:
    logits = np.zeros((2, 4, 5), dtype=np.float32)
    for place, token in enumerate([1, 2, 0]):
        logits[0, place, token] = 1.0
    logits[1, 1, 1] = np.nan
    assert TASK.correct(logits, LABELS).tolist() == [pytest.approx(2 / 3), 0.0]


def test_a_prediction_is_the_likeliest_next_token() -> None:
    answer = TASK.prediction(np.array([[9.0, 0, 0], [0, 0, 4.0]], dtype=np.float32), ())
    assert (answer["token"], answer["tokens"]) == (2, [2, 0, 1])
    assert answer["probability"] == pytest.approx(math.exp(4) / (math.exp(4) + 2))


def test_each_task_refuses_what_it_cannot_learn_from() -> None:
    images = ImageSchema(channels=1, height=2, width=2, dtype="uint8", classes=("a", "b"))
    with pytest.raises(ConfigError, match="task is causal_lm and the data set has images of 2 classes, wanted token ids with a label at each token"):
        TASK.check(images)
    with pytest.raises(ConfigError, match="has tokens of 2 classes"):
        TASK.check(TokenSchema(length=4, vocab_size=5, classes=("a", "b")))
    with pytest.raises(ConfigError, match=r"task image_classification got sequences of 4 token ids .* Hint: for token ids use `task: causal_lm`"):
        tasks.get("image_classification").check(TokenSchema(length=4, vocab_size=5))
