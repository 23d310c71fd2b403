"""From a YAML file to checked, frozen values; from a wrong file to one readable error."""

from __future__ import annotations

import copy
import difflib
import typing
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from foundry_ray.config.scale import apply_scale
from foundry_ray.config.sections import PipelineConfig
from foundry_ray.config.store import StoreConfig
from foundry_ray.documents import Json
from foundry_ray.errors import ConfigError, FoundryError, OutOfRange, UnknownKey


def load_config(path: str | Path, overrides: Sequence[str] = (), *, scale: str | None = None) -> PipelineConfig:
    """Read a pipeline file, apply `key=value` overrides, check everything, and resolve `scale`.

    Raises:
        UnknownKey: With the nearest valid key.
        OutOfRange: A value outside its range or of the wrong type.
        ConfigError: The file is missing or is not YAML.
    """
    document = read_yaml(Path(path))
    if isinstance(document.get("store"), str):  # so that an override can name a key of the section
        document["store"] = {"uri": document["store"]}
    document = overridden(document, overrides)
    if scale is not None:
        document["scale"] = scale
    return apply_scale(validate(PipelineConfig, document, where=str(path)))


def overridden(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a configuration with `key=value` overrides. Raises ConfigError for one that is none."""
    changed = copy.deepcopy(dict(document))
    for override in overrides:
        _set(changed, override)
    return changed


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top is a mapping. Raises ConfigError."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_OneValueLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist.", hint="`foundry init` writes a pipeline.yaml to start from.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.", hint="name a YAML file.") from error
    except _TwiceError as error:
        raise ConfigError(f"{path}: {error.key} is there twice, again at line {error.line}, wanted once.", hint="keep one of the two.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{path} is not YAML{line}: {getattr(error, 'problem', error)}.", hint="check the indentation and the brackets there."
        ) from error
    if document is None:
        raise ConfigError(f"{path} is empty, wanted a mapping of sections.", hint="`foundry schema` prints those of a pipeline.")
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds a {type(document).__name__}, wanted a mapping of sections.", hint="`foundry schema` prints what is allowed.")
    return document


class _TwiceError(Exception):
    def __init__(self, key: str, line: int) -> None:
        super().__init__(key, line)
        self.key, self.line = key, line


class _OneValueLoader(yaml.SafeLoader):
    """Safe, and a key that is written twice in a mapping is an error: PyYAML forgets the first value without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _TwiceError(key.value, key.start_mark.line + 1)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep=deep)


def store_config(text: str) -> StoreConfig:
    """What `--store` and FOUNDRY_STORE name: a URI, or a .yaml file that holds the mapping form, alone or as `store:` of a pipeline.

    Raises:
        ConfigError: The file is missing, or is wrong.
    """
    if not text.endswith((".yaml", ".yml")) or "://" in text:
        return StoreConfig(uri=text)
    document = read_yaml(Path(text))
    section = document.get("store", document)
    return validate(StoreConfig, {"uri": section} if isinstance(section, str) else section, where=text)


M = typing.TypeVar("M", bound=BaseModel)
_WANTED = {"tuple_type": "must be a list", "too_short": "must have more items", "too_long": "must have fewer items"}
"""What pydantic says in the words of Python."""


def validate(model: type[M], document: object, *, where: str) -> M:
    """Check a document against a section type, with errors as users need them: what, got, wanted, hint."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise _readable(model, error.errors()[0], where) from error


def semantic(section: BaseModel) -> dict[str, Json]:
    """The fields of a section that change its result, as JSON: what a stage key is made of.

    A field that came later (tagged so) enters where it is set, so that what was made before there was one keeps its key.
    """
    kept: dict[str, Json] = {}
    for name, field in type(section).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("execution"):
            continue
        value = getattr(section, name)
        if isinstance(extra, dict) and extra.get("later") and value in (None, ()):
            continue
        kept[name] = semantic(value) if isinstance(value, BaseModel) else _plain(value)
    return kept


def _plain(value: object) -> Json:
    if isinstance(value, BaseModel):
        return semantic(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return typing.cast(Json, value)


def _set(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set got {override!r}, wanted key=value.", hint="for example `--set search.budget.trials=8`.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {text!r} is not a YAML value.", hint="quote it, for example '--set key=\"[1, 3]\"'.") from error
    place = document
    *parents, last = key.split(".")
    for parent in parents:
        below = place.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {key}: {parent!r} is a value and not a section.", hint="`foundry schema` prints the sections.")
        place = below
    place[last] = value


def _readable(model: type[BaseModel], detail: ErrorDetails, where: str) -> FoundryError:
    path = ".".join(str(part) for part in detail["loc"] if not isinstance(part, str) or not part.startswith("function-"))
    if detail["type"] == "extra_forbidden":
        return _unknown_key(model, detail, path, where)
    if detail["type"] == "missing":
        return ConfigError(f"{where}: {path} is missing.", hint=f"add `{path}:`; `foundry schema` describes it.")
    if detail["type"] == "value_error":
        said = detail["msg"].removeprefix("Value error, ")
        return OutOfRange(f"{where}: {path + ': ' if path else ''}{said}.", hint="`foundry schema` describes these keys.", key=path, value=None)
    got = detail["input"]
    wanted = _WANTED.get(detail["type"]) or detail["msg"].replace("Input should be", "must be")
    return OutOfRange(f"{where}: {path} is {got!r}, but {wanted}.", hint=f"`foundry schema` gives the range of `{path}`.", key=path, value=repr(got))


def _unknown_key(model: type[BaseModel], detail: ErrorDetails, path: str, where: str) -> UnknownKey:
    valid = _keys_at(model, detail["loc"][:-1])
    near = difflib.get_close_matches(str(detail["loc"][-1]), valid, n=1, cutoff=0.3)
    prefix = path.rpartition(".")[0]
    nearest = f"{prefix}.{near[0]}" if near and prefix else (near[0] if near else None)
    hint = f"did you mean `{nearest}`?" if nearest else f"valid keys here: {', '.join(valid)}."
    return UnknownKey(f"{where}: {path} is no key of this section; it has {', '.join(valid)}.", hint=hint, key=path, nearest=nearest)


def _keys_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation
        options = [annotation, *typing.get_args(annotation)]
        current = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(current.model_fields)


def parse_params(model: type[M], params: Mapping[str, Json], *, where: str) -> M:
    """Validate the `params:` of a registered name by the plugin's own type."""
    return validate(model, dict(params), where=where)
