"""What models, aliases and references are called, and where the registry keeps what. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from foundry_ray.errors import ConfigError

CHAMPION = "champion"
NAMES = "registry-names"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_MAX_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A parsed `name:version` (then `alias` is empty) or `name@alias` (then `version` is None)."""

    name: str
    alias: str = ""
    version: int | None = None


def parse(text: str) -> Reference:
    """`name@alias`, `name:version`, or `name`, which means `name@champion`. Raises ConfigError for another form."""
    name, mark, target = text, "@", CHAMPION
    for candidate in "@:":
        if candidate in text:
            name, mark, target = text.partition(candidate)
            break
    check_name(name, "model name")
    if mark == "@":
        return Reference(name=name, alias=check_name(target, "alias"))
    if not (target.isascii() and target.isdigit() and len(target) <= _MAX_DIGITS):
        raise ConfigError(
            f"{text[:80]!r} has the version {target[:20]!r}, wanted a number of at most {_MAX_DIGITS} digits.",
            hint=f"for example `{name}:1`, or `{name}@{CHAMPION}`.",
        )
    return Reference(name=name, version=int(target))


def parse_alias(text: str) -> Reference:
    """`name@alias`, or `name`, which means `name@champion`. Raises ConfigError for a version."""
    reference = parse(text)
    if reference.version is not None:
        raise ConfigError(f"{text!r} names a version, wanted an alias.", hint=f"for example `{reference.name}@{CHAMPION}`.")
    return reference


def is_name(text: str) -> bool:
    """Whether a text can be the name of a model or of an alias."""
    return _NAME.fullmatch(text) is not None


def check_name(text: str, what: str) -> str:
    """The text itself, where it can be a name. Raises ConfigError."""
    if is_name(text):
        return text
    message = f"{text[:80]!r} is no {what}, wanted 1 to 63 letters, digits, - and _, a letter or digit first."
    bare = re.split("[@:]", text, maxsplit=1)[0]
    is_reference = what == "model name" and bare != text and is_name(bare)
    raise ConfigError(message, hint=f"give the name alone: `{bare}`." if is_reference else f"for example `mnist` or `{CHAMPION}`.")


def version_folder(name: str) -> str:
    """Where the versions of a name lie."""
    return f"registry/{name}/versions"


def index_folder(name: str) -> str:
    """Where keys say which model each version holds."""
    return f"registry/{name}/models"


def report_folder(name: str, version: int) -> str:
    """Where the verdicts on a version lie."""
    return f"registry/{name}/reports/{version:08d}"


def tag_folder(name: str, version: int) -> str:
    """Where the tags of a version lie."""
    return f"registry/{name}/tags/{version:08d}"


def signature_folder(name: str, version: int) -> str:
    """Where the signatures of a version lie."""
    return f"registry/{name}/signatures/{version:08d}"


def aliases_folder(name: str) -> str:
    """Where the aliases of a name lie, each a folder of moves."""
    return f"registry/{name}/aliases"


def alias_folder(name: str, alias: str) -> str:
    """Where the moves of an alias lie."""
    return f"{aliases_folder(name)}/{alias}"
