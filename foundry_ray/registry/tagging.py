"""Tags: what users say of a version, `key=value`. Each change writes the whole set as the next object of a series."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from foundry_ray.errors import ConfigError, OutOfRange
from foundry_ray.protocols import ArtifactStore
from foundry_ray.registry import naming, records, series
from foundry_ray.registry.series import Note
from foundry_ray.types import Json, to_json

MAX_TAGS = 50
MAX_VALUE = 250
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """All tags of a version from this object on, and who changed them."""

    tags: Mapping[str, str] = field(default_factory=dict)
    by: str = "unknown"
    at: str = ""
    format_version: int = 1


def parse_tags(pairs: Iterable[str]) -> dict[str, str]:
    """`key=value` texts as tags. Raises ConfigError for one without =, OutOfRange for a key or value outside the limits."""
    found = {}
    for pair in pairs:
        key, mark, value = pair.partition("=")
        if not mark:
            raise ConfigError(f"{pair!r} is no tag, wanted key=value.", hint="for example `stage=production`.")
        found[_check_key(key)] = _check_value(key, value)
    return found


def read_tags(store: ArtifactStore, name: str, version: int) -> dict[str, str]:
    """The tags of a version. One request, two where there are any."""
    folder = naming.tag_folder(name, version)
    numbers = series.numbers(store, folder)
    return dict(series.load(Tags, store, series.key_of(folder, numbers[-1])).tags) if numbers else {}


def tag(store: ArtifactStore, name: str, version: int, tags: Mapping[str, str], *, remove: Collection[str] = (), note: Note) -> dict[str, str]:
    """Set and remove tags, whatever others change at the same moment. Four requests. Returns all tags of the version.

    Raises:
        ArtifactNotFound: There is no such version.
        ConfigError: A tag to remove that the version does not have.
        OutOfRange: More tags than `MAX_TAGS`, or a key or value outside the limits.
    """
    records.load_version(store, name, version, is_whole=False)
    checked = {_check_key(key): _check_value(key, value) for key, value in tags.items()}
    folder = naming.tag_folder(name, version)
    result: dict[str, str] = {}

    def document(newest: int) -> Json:
        nonlocal result
        before = dict(series.load(Tags, store, series.key_of(folder, newest)).tags) if newest else {}
        result = _changed(f"{name}:{version}", before, checked, remove)
        return None if result == before else to_json(Tags(tags=result, by=note.by, at=note.at))

    series.append(store, folder, document)
    return result


def _changed(what: str, before: Mapping[str, str], tags: Mapping[str, str], remove: Collection[str]) -> dict[str, str]:
    absent = sorted(set(remove) - set(before))
    if absent:
        known = ", ".join(sorted(before)) or "none"
        raise ConfigError(f"{what} has no tag {absent[0]!r}; its tags: {known}.", hint="`foundry models show` prints them.")
    result = {key: value for key, value in {**before, **tags}.items() if key not in remove}
    if len(result) > MAX_TAGS:
        raise OutOfRange(f"{what} would have {len(result)} tags, wanted at most {MAX_TAGS}.", hint="`--remove KEY`.", key="tags", value=len(result))
    return dict(sorted(result.items()))


def _check_key(key: str) -> str:
    if _KEY.fullmatch(key) is None:
        message = f"{key[:80]!r} is no key of a tag, wanted 1 to 63 of letters, digits, . _ and -."
        raise OutOfRange(message, hint="for example `stage=production`.", key="tag", value=key[:80])
    return key


def _check_value(key: str, value: str) -> str:
    if len(value) > MAX_VALUE or not all(letter.isprintable() for letter in value):
        message = f"the tag {key} has a value of {len(value)} characters, wanted at most {MAX_VALUE}, on one line."
        raise OutOfRange(message, hint="tag where the long text lies.", key=key, value=value[:40])
    return value
