"""Bytes on their way: objects in parts, up and down, several at once.

Decides: part sizes, how many parts fly at once, what is repeated. Leaves to the store: names, errors, and what an object means. A client
and a target (`Bucket`, `Key` and what else the request takes) come from the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from foundry_ray.artifacts.s3.client import PART_BYTES


def upload(client: Any, target: Mapping[str, str], source: bytes | Path) -> None:
    """Write an object in parts. Raises what the client raises."""
    with opened(source) as stream:
        client.upload_fileobj(stream, **target, Config=_transfer_config())


def download(client: Any, target: Mapping[str, str], path: Path) -> str:
    """Read an object into a new file. Returns the sha256 (hex) of its bytes. Raises what the client raises."""
    with path.open("xb") as stream:
        client.download_fileobj(**target, Fileobj=stream, Config=_transfer_config())
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def opened(source: bytes | Path) -> Iterator[IO[bytes]]:
    """The bytes, or the file, as a stream."""
    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        yield stream


def _transfer_config() -> Any:
    from boto3.s3.transfer import TransferConfig

    # "classic": the CRT client ignores endpoint_url and goes to AWS (boto3 issue 4839).
    return TransferConfig(
        multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4, io_chunksize=1 << 20, preferred_transfer_client="classic"
    )
