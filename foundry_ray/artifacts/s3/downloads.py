"""Objects on their way down: ranges at once, each into its place of the file, hashed as they arrive.

All ranges must come from one version of the object: each answer's ETag and total size are compared with the first answer's, and where
they differ the download starts again. (`If-Match` asks for the same, but some servers refuse their own ETags.) A body that ends early is
continued from where it broke off, a bounded number of times.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundry_ray.artifacts.s3.client import PART_BYTES
from foundry_ray.errors import StoreUnavailable

_CHUNK_BYTES = 1 << 20
_NUM_THREADS = 4
_NUM_WAITING = 6  # parts in flight or in memory: one is hashed, one waits, four are on their way
_NUM_ATTEMPTS = 5
_NUM_VERSIONS = 5


class _Replaced(Exception):
    """The object is not the one that the download began with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    """One version of an object, on its way into an open file."""

    client: Any
    target: Mapping[str, str]
    etag: str
    size: int
    descriptor: int


def download(client: Any, target: Mapping[str, str], path: Path) -> str:
    """Read an object into a new file. Returns the sha256 (hex) of its bytes.

    Raises:
        ClientError: And all else that the client raises.
        StoreUnavailable: The object was replaced during each of five attempts.
    """
    for _ in range(_NUM_VERSIONS):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            return _download(client, target, descriptor)
        except _Replaced:
            continue
        finally:
            os.close(descriptor)
    message = f"s3://{target['Bucket']}/{target['Key']} was replaced {_NUM_VERSIONS} times while it was read."
    raise StoreUnavailable(message, hint="wait until nobody writes to it.", uri=f"s3://{target['Bucket']}")


def _download(client: Any, target: Mapping[str, str], descriptor: int) -> str:
    try:
        first = client.get_object(**target, Range=f"bytes=0-{PART_BYTES - 1}")
    except client.exceptions.ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 416:
            raise
        first = client.get_object(**target)  # an empty object has no ranges
    size = first.get("ContentRange", "").rpartition("/")[2]
    if not size.isdigit():
        return _download_whole(first["Body"], descriptor)
    version = _Version(client=client, target=target, etag=first["ETag"], size=int(size), descriptor=descriptor)
    digest = hashlib.sha256()
    for chunk in _chunks(version, first):
        digest.update(chunk)
    return digest.hexdigest()


def _download_whole(body: Any, descriptor: int) -> str:
    """The answer of a server that knows no ranges, or an empty object."""
    digest, position = hashlib.sha256(), 0
    with closing(body):
        while chunk := body.read(_CHUNK_BYTES):
            digest.update(chunk)
            position = _write(descriptor, chunk, position)
    return digest.hexdigest()


def _chunks(version: _Version, first: Mapping[str, Any]) -> Iterator[bytes]:
    """All bytes in order, while later parts arrive."""
    if version.size <= PART_BYTES:
        yield from _fetch(version, 0, first)
        return
    waiting: deque[Future[list[bytes]]] = deque()
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="download") as pool:
        try:
            for start in range(0, version.size, PART_BYTES):
                waiting.append(pool.submit(_fetch, version, start, None if start else first))
                if len(waiting) == _NUM_WAITING:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _fetch(version: _Version, start: int, answer: Mapping[str, Any] | None) -> list[bytes]:
    """One part, written and returned. `answer` is its first answer, where it is known already."""
    from botocore import exceptions as boto

    stop = min(start + PART_BYTES, version.size)
    chunks: list[bytes] = []
    position, failure = start, None
    for _ in range(_NUM_ATTEMPTS):
        try:
            for chunk in _body(version, position, stop, answer):
                position = _write(version.descriptor, chunk, position)
                chunks.append(chunk)
        except boto.FlexibleChecksumError as error:
            chunks, position, failure = [], start, error
        except (boto.IncompleteReadError, boto.ResponseStreamingError) as error:
            failure = error
        if position == stop:
            return chunks
        answer = None
    raise failure or boto.IncompleteReadError(actual_bytes=position - start, expected_bytes=stop - start)


def _body(version: _Version, position: int, stop: int, answer: Mapping[str, Any] | None) -> Iterator[bytes]:
    from botocore.exceptions import ClientError

    try:
        answer = answer or version.client.get_object(**version.target, Range=f"bytes={position}-{stop - 1}")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 416:
            raise
        raise _Replaced from error
    with closing(answer["Body"]) as body:
        if (answer["ETag"], answer.get("ContentRange")) != (version.etag, f"bytes {position}-{stop - 1}/{version.size}"):
            raise _Replaced
        while position < stop and (chunk := body.read(min(_CHUNK_BYTES, stop - position))):
            position += len(chunk)
            yield chunk
        body.read(1)  # the end, where a checksum is compared


def _write(descriptor: int, chunk: bytes, position: int) -> int:
    """Write at a position, whole. Returns the position after it."""
    rest = memoryview(chunk)
    while rest:
        written = os.pwrite(descriptor, rest, position)
        rest, position = rest[written:], position + written
    return position
