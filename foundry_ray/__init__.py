"""foundry_ray: a large teacher, a joint search over hyperparameters and compression, and a small fast model that is served.

The public names load on first use, so that importing the package imports neither torch nor ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundry_ray.artifacts import open_store
    from foundry_ray.config import load_config
    from foundry_ray.errors import FoundryError
    from foundry_ray.pipeline import Pipeline, deploy, predict, resume, run
    from foundry_ray.protocols import ArtifactStore as Store
    from foundry_ray.registry import Registry
    from foundry_ray.types import CompressionRecipe, SearchSpace

__version__ = "0.1.0"
__all__ = [
    "CompressionRecipe",
    "FoundryError",
    "Pipeline",
    "Registry",
    "SearchSpace",
    "Store",
    "deploy",
    "load_config",
    "open_store",
    "predict",
    "resume",
    "run",
]

_HOMES = {
    "CompressionRecipe": ("types", "CompressionRecipe"),
    "FoundryError": ("errors", "FoundryError"),
    "Pipeline": ("pipeline", "Pipeline"),
    "Registry": ("registry", "Registry"),
    "SearchSpace": ("types", "SearchSpace"),
    "Store": ("protocols", "ArtifactStore"),
    "deploy": ("pipeline", "deploy"),
    "load_config": ("config", "load_config"),
    "open_store": ("artifacts", "open_store"),
    "predict": ("pipeline", "predict"),
    "resume": ("pipeline", "resume"),
    "run": ("pipeline", "run"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'foundry_ray' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(f"foundry_ray.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
