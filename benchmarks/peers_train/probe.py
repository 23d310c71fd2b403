"""A model that writes down when it is trained on for the first time and for the second: by then the first step is done, whoever takes the steps."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from foundry_ray.models.resnet import ResNetFamily
from foundry_ray.types import ImageSchema


def build(schema: ImageSchema, *, path: str, share: int) -> nn.Module:
    """The 0.70 M ResNet. Passes of `share` rows in training mode are steps; the rank whose second one comes first writes."""
    network = ResNetFamily().build(schema, {"width": 32, "depth": 2})
    network.register_forward_pre_hook(_watcher(Path(path), share))
    return network


def _watcher(path: Path, share: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    begun: list[float] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training and len(inputs[0]) == share:
            begun.append(time.time())
            if len(begun) == 2 and not path.exists():
                part = path.with_suffix(f".{os.getpid()}")  # ranks may come here at the same moment
                part.write_text(json.dumps(begun))
                part.replace(path)

    return note
