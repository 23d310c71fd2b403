"""The teacher's targets: one per sample and view, of what training will see."""

from __future__ import annotations

import numpy as np
import torch

from foundry_ray.compression import teacher_targets
from foundry_ray.data.transforms import augment


def test_targets_are_the_logits_of_the_augmented_views(trained, images, reporter):
    targets = teacher_targets(trained, images[:20], augment=("shift", "rotate"), views=3, seed=5, batch_size=8, reporter=reporter)
    assert (targets.shape, targets.dtype) == ((3, 20, 4), np.float16)
    seen = augment(torch.from_numpy(images[:20]).float(), torch.arange(20), ops=("shift", "rotate"), seed=5, view=2)
    with torch.no_grad():
        expected = trained(seen).numpy()
    np.testing.assert_allclose(targets[2], expected, atol=0.05 * np.ptp(expected))
    assert not np.array_equal(targets[0], targets[1])
    assert reporter.progresses[-1] == (3, 3, "teacher targets")


def test_without_augmentation_one_pass_serves_all_views(trained, images, reporter):
    targets = teacher_targets(trained, images[:10], augment=(), views=2, seed=0, batch_size=4, reporter=reporter)
    assert np.array_equal(targets[0], targets[1])
    assert reporter.progresses == [(1, 1, "teacher targets")]
