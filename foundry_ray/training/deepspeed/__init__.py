"""The engine of many ranks: DeepSpeed owns gradients and optimizer state, sharded by ZeRO stage (arXiv 1910.02054).

The only package that imports deepspeed. `config.py` and `keys.py` turn our configuration into DeepSpeed's and refuse contradictions,
without torch; `engine.py` trains; `fragments.py` shows each rank's share of the state to checkpoints and averages.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundry_ray.training.deepspeed.config import check_deepspeed, deepspeed_config
    from foundry_ray.training.deepspeed.engine import DeepSpeedEngine

__all__ = ["DeepSpeedEngine", "check_deepspeed", "deepspeed_config"]

_HOMES = {"DeepSpeedEngine": "engine", "check_deepspeed": "config", "deepspeed_config": "config"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
