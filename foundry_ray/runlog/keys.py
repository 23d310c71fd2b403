"""Stage keys: which inputs a result belongs to. Pure."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path

from foundry_ray.types import Json, canonical_sha256


def stage_key(stage: str, *, version: int, fields: Mapping[str, Json], inputs: Mapping[str, str]) -> str:
    """The key of a stage's result.

    Args:
        stage: The stage's name.
        version: The stage's schema version: raised when the stage changes what it makes of the same inputs.
        fields: Its semantic configuration (`config.semantic`), resolved.
        inputs: Hashes of what it reads, by name.

    Returns:
        32 hex digits.
    """
    return canonical_sha256({"stage": stage, "version": version, "fields": dict(fields), "inputs": dict(inputs)})[:32]


def plugin_source_sha256(plugin: object) -> str:
    """Hash of the module that defines a user's plugin (a class, a function that makes one, an instance, or the module itself).

    Empty for foundry's own, whose stages carry a schema version instead.
    """
    kind = plugin if inspect.isclass(plugin) or inspect.isfunction(plugin) or inspect.ismodule(plugin) else type(plugin)
    name = kind.__name__ if inspect.ismodule(kind) else kind.__module__
    if name.split(".")[0] == "foundry_ray":
        return ""
    try:
        path = inspect.getsourcefile(kind)
    except TypeError:
        return name
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else name
