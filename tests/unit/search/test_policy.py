from __future__ import annotations

import pytest

from foundry_ray.errors import ConfigError
from foundry_ray.search.policy import Choice, parse_policy
from foundry_ray.types import CompressionRecipe, Objective, Trial

OBJECTIVES = (Objective(metric="accuracy", mode="max"), Objective(metric="latency_p50_ms", mode="min"), Objective(metric="size_bytes", mode="min"))


def _trial(number: int, accuracy: float, latency_ms: float, size_bytes: float = 1e5) -> Trial:
    values = {"accuracy": accuracy, "latency_p50_ms": latency_ms, "size_bytes": size_bytes}
    return Trial(trial_id=str(number), number=number, params={}, recipe=CompressionRecipe(), values=values)


def _choose(text: str, *trials: Trial) -> Choice | None:
    return parse_policy(text).choose(trials, OBJECTIVES, teacher_accuracy=0.98)


def test_the_fastest_within_the_limit_is_chosen() -> None:
    trials = (_trial(0, 0.98, 0.9), _trial(1, 0.97, 0.4), _trial(2, 0.96, 0.1))
    assert _choose("fastest within 1.0 point of the teacher", *trials) == Choice(number=1)


def test_equally_fast_trials_are_told_apart_by_accuracy() -> None:
    trials = (_trial(0, 0.971, 0.041), _trial(1, 0.979, 0.099))
    assert _choose("fastest within 1 points of the teacher", *trials) == Choice(number=1)


def test_where_nobody_is_within_the_limit_the_most_accurate_is_chosen_with_a_warning() -> None:
    choice = _choose("fastest within 1.0 point of the teacher", _trial(0, 0.94, 0.9), _trial(1, 0.95, 0.9), _trial(2, 0.6, 0.1))
    assert choice is not None
    assert choice.number == 1
    assert "accuracy 0.9500 against the teacher's 0.9800" in choice.warning


def test_the_most_accurate_under_both_limits_is_chosen() -> None:
    trials = (_trial(0, 0.99, 6.0), _trial(1, 0.98, 4.0, 2e6), _trial(2, 0.97, 4.0, 0.9e6), _trial(3, 0.96, 1.0))
    assert _choose("best under 5 ms and 1 MB", *trials) == Choice(number=2)


def test_the_smallest_within_the_limit_is_chosen() -> None:
    trials = (_trial(0, 0.98, 0.1, 9e5), _trial(1, 0.975, 0.9, 2e5), _trial(2, 0.9, 0.1, 1e5))
    assert _choose("smallest within 0.5 point of the teacher", *trials) == Choice(number=1)


def test_the_knee_is_nearest_to_the_best_of_everything() -> None:
    trials = (_trial(0, 0.99, 9.0, 9e5), _trial(1, 0.97, 1.0, 2e5), _trial(2, 0.5, 0.1, 1e5))
    assert _choose("knee", *trials) == Choice(number=1)


def test_without_trials_there_is_no_choice() -> None:
    assert _choose("knee") is None


@pytest.mark.parametrize("text", ["quickest", "fastest within 1 point", "best under 5 s", "best under 5 ms and 6 ms", "best under 0 ms", ""])
def test_another_policy_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.choose is") as caught:
        parse_policy(text)
    assert "fastest within 1.0 point of the teacher" in caught.value.hint
