"""Intervals at 95 %: Wilson for shares, the bootstrap for the rest, paired for differences. Pure and deterministic.

Legend: N samples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from foundry_ray.protocols import Task
from foundry_ray.types import MetricValue

if TYPE_CHECKING:
    import numpy as np

_Z = 1.959964
_RESAMPLES = 1000
_METRIC_RESAMPLES = 200
_SEED = 0


def wilson(num_right: float, n: int) -> MetricValue:
    """A share with Wilson's interval (1927), which holds near 0 and 1 where the normal one fails. Raises ValueError for n < 1."""
    if n < 1:
        raise ValueError(f"wilson got n={n}, wanted at least 1")
    share = num_right / n
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return MetricValue(value=share, ci_low=max(0.0, middle - half), ci_high=min(1.0, middle + half), n=n)


def mean(scores_N: np.ndarray) -> MetricValue:
    """A mean of per-sample scores: Wilson where all are 0 or 1, else the percentile bootstrap."""
    import numpy as np

    if np.isin(scores_N, (0.0, 1.0)).all():
        return wilson(float(scores_N.sum()), len(scores_N))
    return _bootstrap_mean(scores_N)


def agreement(logits_a_NC: np.ndarray, logits_b_NC: np.ndarray) -> MetricValue:
    """Share of samples whose largest logit is the same class for both models."""
    return wilson(float((logits_a_NC.argmax(axis=1) == logits_b_NC.argmax(axis=1)).sum()), len(logits_a_NC))


def paired_drop(reference_N: np.ndarray, candidate_N: np.ndarray) -> MetricValue:
    """Mean of reference - candidate over the same samples, with the bootstrap over pairs: far narrower than two intervals apart."""
    return _bootstrap_mean(reference_N - candidate_N)


def bootstrapped(value_of: Callable[[np.ndarray], float], n: int) -> MetricValue:
    """A number that is a function of whole rows, with the percentile bootstrap: `value_of` takes row numbers, with repetitions."""
    import numpy as np

    drawn = _resampled(lambda rows: {"": value_of(rows)}, n)
    return _percentiles(value_of(np.arange(n)), drawn[""], n)


def all_metrics(task: Task, logits_NC: np.ndarray, labels_N: np.ndarray) -> Mapping[str, MetricValue]:
    """Every metric of the task with an interval; the primary one from its per-sample scores."""
    values = task.metrics(logits_NC, labels_N)
    drawn = _resampled(lambda rows: task.metrics(logits_NC[rows], labels_N[rows]), len(labels_N))
    found = {name: _percentiles(value, drawn.get(name, [value]), len(labels_N)) for name, value in values.items()}
    return {**found, task.primary_metric: mean(task.correct(logits_NC, labels_N))}


def _resampled(metrics: Callable[[np.ndarray], Mapping[str, float]], n: int) -> dict[str, list[float]]:
    import numpy as np

    generator = np.random.default_rng(_SEED)
    drawn: dict[str, list[float]] = {}
    for _ in range(_METRIC_RESAMPLES):
        for name, value in metrics(generator.integers(0, n, n)).items():
            drawn.setdefault(name, []).append(value)
    return drawn


def _bootstrap_mean(values_N: np.ndarray) -> MetricValue:
    import numpy as np

    n = len(values_N)
    generator = np.random.default_rng(_SEED)
    means = [float(values_N[generator.integers(0, n, n)].mean()) for _ in range(_RESAMPLES)]
    return _percentiles(float(values_N.mean()), means, n)


def _percentiles(value: float, drawn: list[float], n: int) -> MetricValue:
    import numpy as np

    low, high = np.quantile(np.asarray(drawn), [0.025, 0.975])
    return MetricValue(value=value, ci_low=min(value, float(low)), ci_high=max(value, float(high)), n=n)
