"""Which keys an object may have: the alphabet that every S3-compatible store and every file system keeps as it is written.

Some servers rewrite `a//b` and backslashes, file systems cannot hold both `x` and `x/y`, and `..` leaves the folder. A key that passes
here means the same object everywhere.
"""

from __future__ import annotations

import re

from foundry_ray.errors import StoreError

_SEGMENT = re.compile(r"[A-Za-z0-9._=-]{1,255}")
_MAX_KEY_BYTES = 900  # S3 allows 1024; the rest is for the prefix of the store
_HINT = "use segments of A-Z a-z 0-9 . _ = - joined by single slashes."


def check_key(key: str) -> str:
    """The key itself, where it is portable. Raises StoreError for path traversal, empty segments and other characters."""
    if not 0 < len(key) <= _MAX_KEY_BYTES:
        raise StoreError(f"the key {_shown(key)} has {len(key)} characters, wanted 1 to {_MAX_KEY_BYTES}.", hint=_HINT)
    for segment in key.split("/"):
        if segment in (".", "..") or _SEGMENT.fullmatch(segment) is None:
            raise StoreError(f"the key {_shown(key)} has the segment {_shown(segment)}, which is not portable.", hint=_HINT)
    return key


def check_prefix(prefix: str) -> str:
    """The prefix of a listing: empty, or a key that may end anywhere, also with a slash. Raises StoreError."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
