"""Finds the shipped files (cluster/, search_spaces/, serve/, pipeline.yaml): in the wheel under `_assets/`, in a checkout beside the package."""

from __future__ import annotations

from pathlib import Path

from foundry_ray.errors import ConfigError

_PACKAGE = Path(__file__).parent


def root() -> Path:
    """The folder that holds the shipped files."""
    inside = _PACKAGE / "_assets"
    return inside if inside.is_dir() else _PACKAGE.parent


def find(kind: str, name: str, *, key: str) -> Path:
    """A user's path (`./my.yaml`), or a shipped file by its bare name.

    Args:
        kind: The shipped folder, such as `search_spaces`.
        name: What the user wrote.
        key: The configuration key, for the error.

    Raises:
        ConfigError: Neither exists; the message lists what is shipped.
    """
    own = Path(name)
    if own.suffix and own.is_file():
        return own
    shipped = root() / kind / f"{name}.yaml"
    if shipped.is_file() and "/" not in name:
        return shipped
    names = ", ".join(sorted(path.stem for path in (root() / kind).glob("*.yaml"))) or "none"
    raise ConfigError(
        f"{key} is {name!r}, which is neither a file nor one of the shipped {kind}: {names}.",
        hint=f"name one of these, or a path such as ./{kind}.yaml.",
    )
