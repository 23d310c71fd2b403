"""Whether two documents under one key say the same: the same run told twice, or the same result that two stores found. Pure.

When something was made, where its bytes lie, and which number a model got are each store's own. What was made is not.
"""

from __future__ import annotations

from foundry_ray.housekeeping.belongings import plain, renamed
from foundry_ray.types import Json, parse_json

_ENTRY = frozenset({"name", "version", "model", "report", "passed"})
_OWN = frozenset({"version", "aliases", "tags"})


def is_same(key: str, one: bytes, other: bytes) -> bool:
    """Whether two documents under `key` say the same. Raises ArtifactCorrupt where one is no JSON."""
    return one == other or _essence(key, parse_json(one, what=key)) == _essence(key, parse_json(other, what=key))


def _essence(key: str, value: Json) -> Json:
    if key.startswith("stages/") and isinstance(value, dict):
        value = value.get("outputs")  # and not by which run, when and in how long
    return _without_own(renamed(value, plain))


def _without_own(value: Json) -> Json:
    if isinstance(value, dict):
        left_out = _OWN if value.keys() >= _ENTRY else frozenset()
        return {key: _without_own(item) for key, item in value.items() if key != "created_at" and key not in left_out}
    return [_without_own(item) for item in value] if isinstance(value, list) else value
