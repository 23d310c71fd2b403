from __future__ import annotations

import numpy as np
import pytest

from foundry_ray import models
from foundry_ray.config import ModelConfig, StudentConfig
from foundry_ray.data import Split
from foundry_ray.search.trial import TrialContext
from foundry_ray.types import ImageSchema, Preprocessing

SCHEMA = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("dark", "light"))


def _split(num_rows: int, seed: int) -> Split:
    random = np.random.default_rng(seed)
    labels_N = np.arange(num_rows) % 2
    images_NCHW = random.integers(0, 120, (num_rows, 1, 8, 8)) + 130 * labels_N[:, None, None, None]
    return Split(inputs_N=images_NCHW.astype(np.uint8), labels_N=labels_N.astype(np.int64))


@pytest.fixture
def trial_context() -> TrialContext:
    """Dark and light squares, a tiny teacher that was never trained, and its logits."""
    teacher = models.build(ModelConfig(width=8, depth=1), SCHEMA, Preprocessing(mean=(125.0,), std=(70.0,)), seed=0)
    return TrialContext(
        train=_split(64, 0),
        val=_split(32, 1),
        logits_VNC=np.random.default_rng(2).normal(size=(2, 64, 2)).astype(np.float16),
        teacher_description=models.describe(teacher),
        teacher_tensors=models.tensors_to_bytes(teacher.state_dict()),
        family="resnet",
        schema=SCHEMA,
        task="image_classification",
        augment=("shift",),
        student=StudentConfig(epochs=4, batch_size=16, calibration_rows=32, target_views=2, precision="fp32", ema_decay=0.5),
        constraints=(),
        batch_size=1,
        seed=3,
        prefix="studies/s/trials",
    )
