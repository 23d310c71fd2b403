"""What a document of the store names: the walk that collection, verification and export share. Pure.

A document names another object by its whole key (`artifacts/model/<sha>.json`), or a folder of objects by the stage key that it was made under
(32 hex digits: `checkpoints/<key>/`, `studies/<key>/`). Names are found in any string wherever it stands, so that a field that a later format
adds is seen by the foundry before it. Text that only mentions a key, as an error message does, names nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from foundry_ray.artifacts.keys import check_key
from foundry_ray.errors import StoreError
from foundry_ray.types import Json

KINDS = ("artifacts", "blobs", "checkpoints", "latency", "registry", "registry-names", "runs", "stages", "studies", "targets", "test_openings")
_STAGE_KEY = re.compile(r"[0-9a-f]{32}")


def named_keys(document: Json) -> frozenset[str]:
    """The store keys that stand in any string of a JSON value. What no store could hold (`artifacts/../x`) names nothing."""
    return frozenset(text for text in strings(document) if text.partition("/")[0] in KINDS and _is_key(text))


def named_stage_keys(document: Json) -> frozenset[str]:
    """The stage and study keys (32 hex digits) that stand in any string of a JSON value, alone or as a segment of a store key."""
    segments = (segment.partition(".")[0] for text in strings(document) for segment in text.split("/"))
    return frozenset(segment for segment in segments if _STAGE_KEY.fullmatch(segment))


def _is_key(text: str) -> bool:
    if "/" not in text:
        return False
    try:
        check_key(text)
    except StoreError:
        return False
    return True


def strings(document: Json) -> Iterator[str]:
    """Every string, keys of objects too. A loop and no recursion: a hostile document may be nested deeper than the stack."""
    waiting: list[Json] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
