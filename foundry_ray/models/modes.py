"""Looking at a model in evaluation mode, and leaving each of its modules in the mode that it was in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Within, the model in evaluation mode. Modes are kept module by module: a frozen norm evaluates while the rest trains."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, is_training in modes.items():
            module.training = is_training
