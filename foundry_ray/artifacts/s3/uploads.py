"""Objects on their way up in parts: several at once, and an upload that broke off goes on where it was.

Nothing is remembered on this side. The server lists the unfinished uploads of a key and their parts; part sizes follow from the size of
the source alone, so that whoever uploads the same bytes finds the parts of the one before. A found upload is joined only where each of
its parts holds our bytes (size and MD5), so that two different contents under one key never mix. A failed upload keeps its parts for the
next attempt; `abort_stale` collects those that nobody continued.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry_ray.artifacts.s3.client import PART_BYTES
from foundry_ray.artifacts.s3.errors import ABSENT, code_of
from foundry_ray.errors import StoreError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_log = logging.getLogger(__name__)
_MAX_PARTS = 10_000
_NUM_THREADS = 4
_MAX_BYTES_IN_FLIGHT = 256 << 20
_NUM_FRESH_ATTEMPTS = 2
_NUM_CANDIDATES = 3  # of several unfinished uploads of one key, the youngest are looked at
_LOST = {"NoSuchUpload", "InvalidPart"}
_Read = Callable[[int, int], bytes]
_Receipt = Mapping[str, object]  # what completing an upload says of a part


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One object to upload: part n (from 1) is the bytes from (n - 1) * part_bytes on."""

    client: Any
    target: Mapping[str, str]
    read: _Read
    size: int
    part_bytes: int

    @property
    def num_parts(self) -> int:
        return -(-self.size // self.part_bytes)

    @property
    def num_threads(self) -> int:
        return max(1, min(_NUM_THREADS, _MAX_BYTES_IN_FLIGHT // self.part_bytes))

    def part(self, number: int) -> bytes:
        data = self.read((number - 1) * self.part_bytes, self.bytes_of(number))
        if len(data) != self.bytes_of(number):
            raise StoreError(f"the source of {self.target['Key']} shrank while it was uploaded.", hint="upload it again when nobody writes to it.")
        return data

    def bytes_of(self, number: int) -> int:
        return min(self.part_bytes, self.size - (number - 1) * self.part_bytes)


def upload(client: Any, target: Mapping[str, str], source: bytes | Path, *, extra: Mapping[str, str] | None = None) -> None:
    """Write an object in parts, continuing an unfinished upload of the same bytes where the server has one.

    Args:
        client: A boto3 client.
        target: `Bucket` and `Key`.
        source: Not empty, and not changed meanwhile.
        extra: What else the object is created with: encryption, tags.

    Raises:
        ClientError: And all else that the client raises; the parts that arrived stay for the next attempt.
        StoreError: The source shrank.
    """
    with _reading(source) as (size, read):
        job = _Job(client=client, target=target, read=read, size=size, part_bytes=part_bytes_of(size))
        loss = _attempt(job, _find(job), extra or {})
        for _ in range(_NUM_FRESH_ATTEMPTS):
            if loss is None or _is_there(job):
                return
            loss = _attempt(job, None, extra or {})
        if loss is not None and not _is_there(job):
            raise loss


def part_bytes_of(size: int) -> int:
    """The size of parts: whole MiB, at least 16, so many that 10,000 parts are enough."""
    mib = 1 << 20
    return max(PART_BYTES, -(-size // (_MAX_PARTS * mib)) * mib)


def abort_stale(client: Any, bucket: str, prefix: str, older_than_s: float, now_s: float) -> int:
    """Drop the uploads under `prefix` that were begun more than `older_than_s` ago. Returns how many; 0 where a server lists none."""
    found = _list_uploads(client, bucket, prefix)
    stale = [upload for upload in found if now_s - upload["Initiated"].timestamp() > older_than_s]
    for each in stale:
        with suppress(client.exceptions.NoSuchUpload):
            client.abort_multipart_upload(Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"])
    return len(stale)


def _attempt(job: _Job, found: tuple[str, Mapping[int, _Receipt]] | None, extra: Mapping[str, str]) -> ClientError | None:
    """Finish an upload, a new one where none was found. Returns the error where it vanished meanwhile.

    It does where somebody who uploads the same bytes completed it, or where a collector took it for abandoned.
    """
    upload_id, kept = found or (_create(job, extra), {})
    error_type: type[ClientError] = job.client.exceptions.ClientError
    try:
        _finish(job, upload_id, kept)
    except error_type as error:
        if code_of(error) not in _LOST:
            raise
        return error
    return None


def _create(job: _Job, extra: Mapping[str, str]) -> str:
    return str(job.client.create_multipart_upload(**job.target, **extra, **_checksum(job.client))["UploadId"])


def _finish(job: _Job, upload_id: str, kept: Mapping[int, _Receipt]) -> None:
    checksum = _checksum(job.client)

    def send(number: int) -> _Receipt:
        if number in kept:
            return kept[number]
        answer = job.client.upload_part(**job.target, **checksum, UploadId=upload_id, PartNumber=number, Body=job.part(number))
        confirmed = {"ChecksumCRC32": answer["ChecksumCRC32"]} if answer.get("ChecksumCRC32") else {}
        return {"PartNumber": number, "ETag": answer["ETag"], **confirmed}

    parts = _in_parallel(job, send, range(1, job.num_parts + 1))
    job.client.complete_multipart_upload(**job.target, UploadId=upload_id, MultipartUpload={"Parts": parts})


def _in_parallel(job: _Job, action: Callable[[int], _Receipt], numbers: Sequence[int]) -> list[_Receipt]:
    """Results in order; after the first failure no further one is begun."""
    with ThreadPoolExecutor(job.num_threads, thread_name_prefix="upload") as pool:
        running = [pool.submit(action, number) for number in numbers]
        try:
            return [each.result() for each in running]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _find(job: _Job) -> tuple[str, Mapping[int, _Receipt]] | None:
    """An unfinished upload that holds nothing but parts of ours, and these parts."""
    key, algorithm = job.target["Key"], _checksum(job.client).get("ChecksumAlgorithm")
    uploads = [each for each in _list_uploads(job.client, job.target["Bucket"], key) if each["Key"] == key]
    uploads = [each for each in uploads if each.get("ChecksumAlgorithm") in (None, "", algorithm)]
    for each in sorted(uploads, key=lambda each: each["Initiated"], reverse=True)[:_NUM_CANDIDATES]:
        kept = _kept_parts(job, each["UploadId"])
        if kept:
            _log.info("continuing the upload of %s: %d of %d parts are there.", key, len(kept), job.num_parts)
            return each["UploadId"], kept
    return None


def _kept_parts(job: _Job, upload_id: str) -> Mapping[int, _Receipt]:
    """Receipts of the parts of an upload, where all are ours; none where one is not."""
    try:
        pages = job.client.get_paginator("list_parts").paginate(**job.target, UploadId=upload_id)
        listed = [part for page in pages for part in page.get("Parts", ())]
    except job.client.exceptions.ClientError as error:
        if not _is_unsupported(error):
            raise
        return {}
    if any(not 1 <= part["PartNumber"] <= job.num_parts or part["Size"] != job.bytes_of(part["PartNumber"]) for part in listed):
        return {}
    numbers = sorted({part["PartNumber"] for part in listed})
    kept = dict(zip(numbers, _in_parallel(job, partial(_expected, job), numbers), strict=True))
    # Where somebody else uploads under this key, a server may list a part twice.
    return {} if any(_bare(part["ETag"]) != _bare(kept[part["PartNumber"]]["ETag"]) for part in listed) else kept


def _list_uploads(client: Any, bucket: str, prefix: str) -> list[Mapping[str, Any]]:
    try:
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
        return [each for page in pages for each in page.get("Uploads", ())]
    except client.exceptions.ClientError as error:
        if not _is_unsupported(error):
            raise
        _log.info("the server does not list unfinished uploads (%s): they start afresh, and abandoned ones stay.", code_of(error))
        return []


def _is_there(job: _Job) -> bool:
    """Whether the object is the one that our parts make: an object of several parts is named by the MD5 of their MD5s."""
    try:
        head = job.client.head_object(**job.target)
    except job.client.exceptions.ClientError as error:
        if code_of(error) not in ABSENT:
            raise
        return False
    if head["ContentLength"] != job.size:
        return False
    receipts = _in_parallel(job, partial(_expected, job), range(1, job.num_parts + 1))
    digests = b"".join(bytes.fromhex(_bare(receipt["ETag"])) for receipt in receipts)
    whole = f"{_md5(digests)}-{job.num_parts}"
    return whole == _bare(head["ETag"])


def _expected(job: _Job, number: int) -> _Receipt:
    """The receipt of a part of ours that the server has already; not all servers list its checksum."""
    data = job.part(number)
    checksum = {"ChecksumCRC32": base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()} if _checksum(job.client) else {}
    return {"PartNumber": number, "ETag": f'"{_md5(data)}"', **checksum}


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _bare(etag: object) -> str:
    """Some servers leave the quotes out."""
    return str(etag).strip('"')


def _checksum(client: Any) -> Mapping[str, str]:
    """Parts carry checksums only where the upload was created for them."""
    return {"ChecksumAlgorithm": "CRC32"} if client.meta.config.request_checksum_calculation == "when_supported" else {}


def _is_unsupported(error: ClientError) -> bool:
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return bool(400 <= status < 500 or status == 501)


@contextmanager
def _reading(source: bytes | Path) -> Iterator[tuple[int, _Read]]:
    """Size of a source, and a function that reads from it, for any thread."""
    if isinstance(source, bytes):
        yield len(source), lambda start, size: source[start : start + size]
        return
    descriptor = os.open(source, os.O_RDONLY)
    try:
        yield os.fstat(descriptor).st_size, lambda start, size: os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)
