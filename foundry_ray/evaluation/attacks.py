"""Adversarial images by the package adversarial-robustness-toolbox: made against a model's own fp32 weights, rounded to pixels a camera could give.

FGSM is arXiv 1412.6572, PGD arXiv 1706.06083, both in the maximum norm, on raw pixels. Legend: N samples, C channels, H height, W width.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from foundry_ray.config import AttackGate
from foundry_ray.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

_BATCH_ROWS = 128
_STEP_RATIO = 2.5  # of epsilon over the number of steps, as in the experiments of arXiv 1706.06083


def check_installed() -> None:
    """Raises ConfigError with the command that installs what attacks need."""
    if importlib.util.find_spec("art") is None:
        message = "gates.attacks needs the package adversarial-robustness-toolbox, which is not installed here."
        raise ConfigError(message, hint="pip install 'foundry-ray[robustness]'")


def attacked(model: nn.Module, images_NCHW: np.ndarray, labels_N: np.ndarray, gate: AttackGate, *, num_classes: int) -> np.ndarray:
    """uint8 images, none of whose pixels is further from the original than epsilon, that `model` gets wrong where the attack succeeds.

    Args:
        model: Takes raw pixels as floats; in eval mode, on the CPU. A GPU computes where there is one.
        images_NCHW: Raw pixels, uint8.
        labels_N: What the model must be led away from.
        gate: Kind and strength.
        num_classes: Of the model.
    """
    import numpy as np

    with _seeded():
        drawn = _attack(model, images_NCHW.shape[1:], gate, num_classes).generate(images_NCHW.astype(np.float32), y=labels_N)
    original = images_NCHW.astype(np.int64)
    near = np.clip(np.rint(drawn).astype(np.int64), original - gate.epsilon, original + gate.epsilon)
    changed_NCHW: np.ndarray = near.clip(0, 255).astype(np.uint8)
    return changed_NCHW


def _attack(model: nn.Module, input_shape: tuple[int, ...], gate: AttackGate, num_classes: int) -> Any:
    import torch
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model=model,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=input_shape,
        nb_classes=num_classes,
        clip_values=(0.0, 255.0),
        device_type="gpu" if torch.cuda.is_available() else "cpu",
    )
    epsilon = float(gate.epsilon)
    if gate.kind == "fgsm":
        return FastGradientMethod(classifier, eps=epsilon, batch_size=_BATCH_ROWS)
    return ProjectedGradientDescent(
        classifier,
        eps=epsilon,
        eps_step=min(epsilon, _STEP_RATIO * epsilon / gate.steps),
        max_iter=gate.steps,
        num_random_init=1,
        batch_size=_BATCH_ROWS,
        verbose=False,
    )


@contextmanager
def _seeded() -> Iterator[None]:
    """The package draws PGD's beginnings from numpy's global generator, which is given back as it was."""
    import numpy as np

    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)
