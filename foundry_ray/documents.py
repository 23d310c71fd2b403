"""The persisted form of a typed value: plain JSON, canonical bytes, and the way back.

`to_json`/`from_json` are the one way in which values are persisted. Every persisted document carries `format_version`: the newest that its kind
has (a dataclass says so by its default), and here is the one place that refuses a newer one. Knows dataclasses in general and none in particular.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types as builtin_types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias, TypeVar

from foundry_ray.errors import ArtifactCorrupt, StoreError

FORMAT_VERSION = 1
"""Of every kind of document that has not changed since the first release; the others have a number of their own."""
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Scalar: TypeAlias = "bool | int | float | str"
T = TypeVar("T")
_MAX_DEPTH = 100  # foundry's own documents have at most a dozen levels; walks that recurse hold this many


def canonical_bytes(value: Json) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def canonical_sha256(value: Json) -> str:
    """Hex sha256 of `canonical_bytes`."""
    return hashlib.sha256(canonical_bytes(value)).hexdigest()


def parse_json(data: bytes, *, what: str, hint: str = "`foundry store verify` says what is broken and what mends it.") -> Json:
    """The JSON value that bytes from outside hold: finite numbers, and at most 100 levels deep.

    Raises:
        ArtifactCorrupt: They are no JSON, hold NaN or an infinity, or are nested deeper.
    """
    try:
        value: Json = json.loads(data, parse_constant=_finite, parse_float=_finite)
    except ValueError as error:
        raise ArtifactCorrupt(f"{what} is not JSON: {error}.", hint=hint, key=what) from error
    except RecursionError:
        raise _too_deep(what, hint) from None
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [item for one in level for item in _inside(one) if isinstance(item, (dict, list))]
        if not level:
            return value
    raise _too_deep(what, hint)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _inside(value: Json) -> typing.Iterable[Json]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep(what: str, hint: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"{what} is nested deeper than {_MAX_DEPTH} levels.", hint=hint, key=what)


def to_json(value: object) -> Json:
    """A dataclass, mapping or sequence as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.value if isinstance(value, StrEnum) else value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def from_json(cls: type[T], data: Json, *, what: str = "document") -> T:
    """Rebuild a dataclass from `to_json`'s output.

    Fields that `data` lacks take their defaults; unknown ones are ignored, so that a newer writer does not break an older reader.

    Raises:
        ArtifactCorrupt: `data` has not the shape of `cls`.
        StoreError: `data`, or a part of it, has a newer `format_version` than `cls`.
    """
    try:
        return typing.cast(T, _decode(cls, data))
    except _Newer as error:
        raise _too_new(what, error) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactCorrupt(
            f"{what} is not a {cls.__name__}: {error}.", hint="`foundry doctor` checks the store; `--fresh STAGE` makes it again.", key=what
        ) from error


def envelope(document: Json, *, what: str, newest: int = FORMAT_VERSION) -> dict[str, Json]:
    """A document that wraps others (`{"format_version": 1, "record": ...}`), where this foundry can read it.

    Raises:
        ArtifactCorrupt: It is no JSON object, or its version is no number.
        StoreError: It is of a newer foundry.
    """
    try:
        if not isinstance(document, dict):
            raise TypeError(f"got {type(document).__name__}, wanted an object")
        _check_version(document.get("format_version", newest), newest)
    except _Newer as error:
        raise _too_new(what, error) from None
    except TypeError as error:
        raise ArtifactCorrupt(f"{what} is not a document: {error}.", hint="`foundry doctor` checks the store.", key=what) from error
    return document


class _Newer(Exception):
    """A document, or a part of one, whose version only a newer foundry knows."""

    def __init__(self, version: int, newest: int) -> None:
        super().__init__(version, newest)
        self.version = version
        self.newest = newest


def _check_version(version: object, newest: int) -> None:
    if type(version) is not int or version < 1:
        raise TypeError(f"format_version is {version!r}, wanted a number from 1 on")
    if version > newest:
        raise _Newer(version, newest)


def _too_new(what: str, found: _Newer) -> StoreError:
    message = f"{what} has format_version {found.version}, this foundry reads up to {found.newest}."
    return StoreError(message, hint="`pip install -U foundry-ray`.")


@functools.cache
def _fields(cls: typing.Any) -> tuple[tuple[str, typing.Any], ...]:
    hints = typing.get_type_hints(cls)
    return tuple((item.name, hints[item.name]) for item in dataclasses.fields(cls))


@functools.cache
def _newest(cls: typing.Any) -> int | None:
    """The newest `format_version` that a dataclass stands for; None where it carries none."""
    return next((typing.cast(int, item.default) for item in dataclasses.fields(cls) if item.name == "format_version"), None)


@functools.cache
def _required(cls: typing.Any) -> frozenset[str]:
    """The fields that a document must have: what tells the members of a union apart."""
    plain = (item for item in dataclasses.fields(cls) if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING)
    return frozenset(item.name for item in plain)


def _decode(kind: typing.Any, data: typing.Any) -> object:
    if kind is str or kind is int or kind is bool or kind is float:  # first, because a manifest may have a million of them
        return _decode_scalar(kind, data)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        newest = _newest(kind)
        if newest is not None and isinstance(data, dict):
            _check_version(data.get("format_version", newest), newest)
        return kind(**{name: _decode(inner, data[name]) for name, inner in _fields(kind) if name in data})
    origin = typing.get_origin(kind)
    if origin in (typing.Union, builtin_types.UnionType):
        return _decode_union(typing.get_args(kind), data)
    if origin is tuple:
        inner = typing.get_args(kind)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_decode(inner[0], item) for item in data)
        return tuple(_decode(one, item) for one, item in zip(inner, data, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _decode(typing.get_args(kind)[1], item) for key, item in data.items()}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(data)
    return data


def _decode_scalar(kind: type, data: object) -> object:
    if kind is float and isinstance(data, int):
        return float(data)
    if type(data) is not kind:
        raise TypeError(f"got {data!r}, wanted {kind.__name__}")
    return data


def _decode_union(options: tuple[typing.Any, ...], data: typing.Any) -> object:
    if data is None:
        return None
    structured: list[typing.Any] = [option for option in options if dataclasses.is_dataclass(option)]
    if structured and isinstance(data, dict):
        return _decode(next((option for option in structured if _required(option) <= data.keys()), structured[0]), data)
    if options == (float, type(None)):
        return _decode(float, data)
    return data
