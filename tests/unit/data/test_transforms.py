"""Augmentation: a function of seed, row and view."""

from __future__ import annotations

import pytest
import torch

from foundry_ray.data.transforms import augment
from foundry_ray.errors import OutOfRange

every = pytest.mark.parametrize("ops", [("shift",), ("rotate",), ("flip",), ("shift", "rotate"), ("shift", "rotate", "flip")])
INDICES = torch.arange(64)


def images(channels: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (64, channels, 28, 28), generator=torch.Generator().manual_seed(0)).float()


@every
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_the_same_bit_for_bit_in_any_batch(ops: tuple[str, ...], channels: int) -> None:
    whole = augment(images(channels), INDICES, ops=ops, seed=5, view=2)
    for rows in (torch.tensor([63]), torch.tensor([7, 3, 50]), INDICES.flip(0), INDICES[:17]):
        part = augment(images(channels)[rows].to(memory_format=torch.channels_last), INDICES[rows], ops=ops, seed=5, view=2)
        assert torch.equal(part, whole[rows])


@every
def test_views_and_seeds_differ(ops: tuple[str, ...]) -> None:
    first, view, seed = (augment(images(), INDICES, ops=ops, seed=s, view=v) for s, v in ((0, 0), (0, 1), (1, 0)))
    assert not torch.equal(first, view)
    assert not torch.equal(first, seed)


def test_no_ops_change_nothing() -> None:
    assert torch.equal(augment(images(), INDICES, ops=(), seed=0, view=0), images())


def test_flip_mirrors_about_half_of_the_rows_exactly() -> None:
    flipped = augment(images(), INDICES, ops=("flip",), seed=0, view=0)
    same = (flipped == images()).flatten(1).all(1)
    mirrored = (flipped == images().flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 20 <= int(mirrored.sum()) <= 44


def _centres(pixels: torch.Tensor) -> torch.Tensor:
    """Centre of mass (x, y) of each image."""
    places = torch.arange(28.0)
    mass = pixels.sum((1, 2, 3))
    return torch.stack(((pixels.sum((1, 2)) * places).sum(1) / mass, (pixels.sum((1, 3)) * places).sum(1) / mass), 1)


def test_shift_moves_up_to_two_pixels_either_way() -> None:
    square = torch.zeros(64, 1, 28, 28)
    square[:, :, 10:18, 10:18] = 255
    moved = _centres(augment(square, INDICES, ops=("shift",), seed=0, view=0)) - 13.5
    assert moved.abs().max() <= 2.01
    assert moved.min() < -1.5
    assert moved.max() > 1.5


def test_rotate_turns_up_to_twelve_degrees_either_way() -> None:
    dot = torch.zeros(64, 1, 28, 28)
    dot[:, :, 13:15, 22:24] = 255
    offset = _centres(augment(dot, INDICES, ops=("rotate",), seed=0, view=0)) - 13.5
    angles = torch.rad2deg(torch.atan2(offset[:, 1], offset[:, 0]))
    assert angles.abs().max() <= 12.5
    assert angles.min() < -9
    assert angles.max() > 9


def test_an_unknown_op_is_refused() -> None:
    with pytest.raises(OutOfRange, match="augment has 'zoom', wanted some of shift, rotate, flip"):
        augment(images(), INDICES, ops=("zoom",), seed=0, view=0)
