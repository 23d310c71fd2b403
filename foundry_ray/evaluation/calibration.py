"""Whether a model's confidence is right, and which class loses most. Pure.

Legend: N samples, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_ray.evaluation import metrics
from foundry_ray.types import MetricValue

if TYPE_CHECKING:
    import numpy as np

NUM_BINS = 15


def calibration_error(logits_NC: np.ndarray, correct_N: np.ndarray) -> MetricValue:
    """Expected calibration error (arXiv 1706.04599, equation 3): the mean distance of accuracy and confidence over bins of confidence.

    Args:
        logits_NC: Their softmax's largest value is the confidence.
        correct_N: 1.0 where the prediction is right, else 0.0.
    """
    confidence_N = _confidence(logits_NC)
    return metrics.bootstrapped(lambda rows: binned_error(confidence_N[rows], correct_N[rows]), len(correct_N))


def binned_error(confidence_N: np.ndarray, correct_N: np.ndarray) -> float:
    """sum over b of |B_b| / n * |acc(B_b) - conf(B_b)|, with 15 bins ((b - 1) / 15, b / 15]."""
    import numpy as np

    bins_N = np.clip(np.ceil(confidence_N * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    right, sure = (np.bincount(bins_N, weights=values_N, minlength=NUM_BINS) for values_N in (correct_N, confidence_N))
    return float(np.abs(right - sure).sum() / len(confidence_N))


def largest_class_drop(reference_N: np.ndarray, candidate_N: np.ndarray, labels_N: np.ndarray) -> tuple[int, MetricValue]:
    """The class whose mean score falls furthest from reference to candidate, and by how much, over its own samples."""
    import numpy as np

    drop_N = reference_N - candidate_N
    drops = {int(label): float(drop_N[labels_N == label].mean()) for label in np.unique(labels_N)}
    worst = max(drops, key=lambda label: drops[label])
    rows = labels_N == worst
    return worst, metrics.paired_drop(reference_N[rows], candidate_N[rows])


def _confidence(logits_NC: np.ndarray) -> np.ndarray:
    import numpy as np

    shifted_NC = np.exp(logits_NC.astype(np.float64) - logits_NC.max(axis=1, keepdims=True))
    confidence_N: np.ndarray = shifted_NC.max(axis=1) / shifted_NC.sum(axis=1)
    return confidence_N
