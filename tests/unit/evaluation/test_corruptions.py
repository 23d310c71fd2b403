"""Corruptions: stronger at each severity, deterministic, and on images of any form."""

from __future__ import annotations

import itertools
import typing

import numpy as np
import pytest

from foundry_ray.config import CorruptionKind
from foundry_ray.evaluation.corruptions import corrupt

KINDS = typing.get_args(CorruptionKind)


def images(channels: int = 1, height: int = 28, width: int = 28) -> np.ndarray:
    """Smooth blobs with edges, as pictures have them."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 100 * np.sin(y / (3 + row)) * np.cos(x / (2 + row)) for row in range(6)]
    rows = np.stack([np.where(x > width / 2, wave, 255 - wave) for wave in waves])
    return np.repeat(rows[:, None], channels, axis=1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_each_severity_changes_more_than_the_one_before(kind):
    rows = images()
    distances = [float(np.abs(corrupt(rows, kind, severity).astype(float) - rows).mean()) for severity in range(1, 6)]
    assert distances[0] > 0
    assert all(before < after for before, after in itertools.pairwise(distances)), distances


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [(1, 5, 9), (3, 32, 32)])
def test_images_of_any_form_stay_images_and_the_same_ones_come_again(kind, form):
    rows = images(*form)
    before = rows.copy()
    first, again = corrupt(rows, kind, 4), corrupt(rows, kind, 4)
    assert first.shape == rows.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert np.array_equal(rows, before)


def test_noise_has_the_strength_that_the_paper_gives_it():
    grey = np.full((20, 1, 64, 64), 128, dtype=np.uint8)
    assert corrupt(grey, "gaussian_noise", 5).std() == pytest.approx(0.10 * 255, rel=0.02)
    shot = corrupt(grey, "shot_noise", 5) / 255
    assert shot.var() == pytest.approx(128 / 255 / 50, rel=0.05), "a Poisson number of photons"
    assert (corrupt(grey, "impulse_noise", 5) != 128).mean() == pytest.approx(0.07, abs=0.005)


def test_blur_keeps_the_light_and_an_even_image():
    grey = np.full((2, 1, 16, 16), 77, dtype=np.uint8)
    for kind in ("gaussian_blur", "motion_blur", "pixelate", "contrast"):
        assert np.array_equal(corrupt(grey, kind, 5), grey)
    point = np.zeros((1, 1, 21, 21), dtype=np.uint8)
    point[0, 0, 10, 10] = 255
    assert corrupt(point, "gaussian_blur", 5).sum() == pytest.approx(255, abs=25), "rounding at each pixel"
    assert (corrupt(point, "motion_blur", 2)[0, 0] > 0).sum() == 5


def test_brightness_adds_and_contrast_draws_to_the_mean():
    rows = images()
    assert np.array_equal(corrupt(rows, "brightness", 1), np.rint(np.clip(rows + 0.05 * 255, 0, 255)).astype(np.uint8))
    spread = corrupt(rows, "contrast", 3).std(axis=(2, 3)) / rows.std(axis=(2, 3))
    assert spread == pytest.approx(0.4, rel=0.05)
