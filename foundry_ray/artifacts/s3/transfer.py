"""Bytes on their way: what the store calls to move objects up and down.

Uploads in parts that resume are in `uploads`, ranged parallel downloads in `downloads`. They know a client and a target (`Bucket` and
`Key`); names, errors and what an object means stay with the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO

from foundry_ray.artifacts.s3.downloads import download
from foundry_ray.artifacts.s3.uploads import abort_stale, upload

__all__ = ["abort_stale", "download", "opened", "upload"]


@contextmanager
def opened(source: bytes | Path) -> Iterator[IO[bytes]]:
    """The bytes, or the file, as a stream."""
    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        yield stream
