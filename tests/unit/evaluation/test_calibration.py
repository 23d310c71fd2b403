"""Calibration against its definition, by hand, and which class loses most."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_ray.evaluation.calibration import NUM_BINS, binned_error, calibration_error, largest_class_drop


def test_the_error_of_four_answers_by_hand():
    confidence = np.array([0.95, 0.96, 0.55, 0.58])  # bins 15, 15, 9 and 9 of 15
    correct = np.array([1.0, 0.0, 1.0, 1.0])
    by_hand = 2 / 4 * abs(0.5 - 0.955) + 2 / 4 * abs(1.0 - 0.565)
    assert binned_error(confidence, correct) == pytest.approx(by_hand)


# Thousandths and a half: never on the border of two of 15 bins, where rounding would decide.
@given(st.lists(st.tuples(st.integers(0, 999), st.booleans()), min_size=1, max_size=60))
def test_the_error_is_the_sum_over_bins_of_the_paper(answers):
    confidence, correct = (np.array(values, dtype=float) for values in zip(*answers, strict=True))
    confidence = (confidence + 0.5) / 1000
    expected = 0.0
    for number in range(1, NUM_BINS + 1):
        low, high = (number - 1) / NUM_BINS, number / NUM_BINS
        inside = [i for i, value in enumerate(confidence) if low < value <= high]
        if inside:
            expected += len(inside) / len(confidence) * abs(correct[inside].mean() - confidence[inside].mean())
    assert binned_error(confidence, correct) == pytest.approx(expected)


def test_a_model_that_is_as_sure_as_it_is_right_has_none_and_one_that_is_always_sure_has_its_error_rate():
    rng = np.random.default_rng(0)
    logits = np.stack([rng.uniform(0, 3, 20_000), np.zeros(20_000)], axis=1)
    probability = 1 / (1 + np.exp(-logits[:, 0]))
    right = (rng.random(20_000) < probability).astype(float)
    assert calibration_error(logits, right).value < 0.02
    sure = calibration_error(100 * np.ones((20_000, 1)) * [[1.0, 0.0]], right)
    assert sure.value == pytest.approx(1 - right.mean(), abs=1e-9)
    assert sure.ci_low <= sure.value <= sure.ci_high
    assert sure.n == 20_000


def test_the_class_that_loses_most_is_found_among_its_own_samples():
    labels = np.array([0] * 90 + [1] * 10)
    reference, candidate = np.ones(100), np.ones(100)
    candidate[:9] = 0  # a tenth of the large class
    candidate[95:] = 0  # half of the small one
    worst, drop = largest_class_drop(reference, candidate, labels)
    assert (worst, drop.value, drop.n) == (1, 0.5, 10)
