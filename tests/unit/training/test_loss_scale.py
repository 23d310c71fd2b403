"""The loss scale of fp16."""

from __future__ import annotations

import pytest

from foundry_ray.config import LossScaleConfig
from foundry_ray.errors import Diverged
from foundry_ray.training.loss_scale import LossScale


def _scale(**options: float) -> LossScale:
    return LossScale(LossScaleConfig.model_validate({"initial_power": 4, "window_steps": 2, **options}))


def test_it_doubles_after_a_window_of_good_steps() -> None:
    scale = _scale()
    for step in range(3):
        scale.update(is_finite=True, step=step)
    assert scale.value == 32


def test_an_overflow_halves_it_and_begins_the_window_anew() -> None:
    scale = _scale()
    for step, is_finite in enumerate((True, False, True)):
        scale.update(is_finite=is_finite, step=step)
    assert scale.value == 8
    scale.update(is_finite=True, step=3)
    assert scale.value == 16


def test_an_overflow_at_the_least_scale_is_a_divergence() -> None:
    scale = _scale(min_scale=6)
    scale.update(is_finite=False, step=1)
    scale.update(is_finite=False, step=2)
    with pytest.raises(Diverged, match="gradient of step 3 is not finite in fp16 at the least loss scale, 6") as caught:
        scale.update(is_finite=False, step=3)
    assert caught.value.facts["step"] == 3


def test_it_goes_on_from_what_it_gave() -> None:
    first, second = _scale(), _scale()
    first.update(is_finite=True, step=1)
    second.load(first.scalars())
    second.update(is_finite=True, step=2)
    assert second.value == 32


def test_a_training_without_a_scale_leaves_it_as_it_is() -> None:
    scale = _scale()
    scale.load({"num_steps": 7.0})
    assert scale.value == 16
