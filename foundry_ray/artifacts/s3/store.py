"""A store in a bucket of any S3-compatible server, over boto3.

Decides: which request an operation is, what stands in for what the endpoint lacks, and that every upload is verified. Leaves repetition over
longer outages to `retrying`, bytes in parts to `transfer`, credentials and errors to `connection`.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from foundry_ray.artifacts.keys import check_key, check_prefix
from foundry_ray.artifacts.s3 import listing
from foundry_ray.artifacts.s3.capabilities import Capabilities, Memory
from foundry_ray.artifacts.s3.client import PART_BYTES, Endpoint
from foundry_ray.artifacts.s3.connection import Connection
from foundry_ray.artifacts.s3.errors import ABSENT, BEYOND_END, EXISTS, code_of, is_denied, is_passing, refused_deletions
from foundry_ray.artifacts.s3.transfer import abort_stale, download, opened, upload
from foundry_ray.config import StoreConfig
from foundry_ray.errors import ArtifactNotFound, Conflict, StoreError, StoreUnavailable
from foundry_ray.protocols import ObjectInfo

_log = logging.getLogger(__name__)
_MAX_DELETED_AT_ONCE = 1_000


class S3Store:
    """ArtifactStore under `prefix` of a bucket.

    Args:
        uri: What users call it; without credentials.
        bucket: The bucket; it must exist, but see `open_bucket`.
        prefix: Put before every key, with a slash at its end, or empty.
        connect: Gives the endpoint; picklable and without secrets in it. Asked again after the server was not reached or refused.
        hint: What to do where the server does not answer.
        config: How writes are encrypted and tagged, and whether this process writes alone.
        capabilities: What the endpoint does, where it is not a server that is known.
        memory: Where to keep what is found out about the endpoint on the way.
    """

    def __init__(
        self,
        *,
        uri: str,
        bucket: str,
        prefix: str,
        connect: Callable[[], Endpoint],
        hint: str,
        config: StoreConfig | None = None,
        capabilities: Capabilities | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._config = config or StoreConfig(uri=uri)
        self._connection = Connection(bucket=bucket, connect=connect, hint=hint, config=self._config)
        self._bucket = bucket
        self._prefix = prefix
        self._capabilities = capabilities or Capabilities()
        self._memory = memory

    @property
    def uri(self) -> str:
        return self._config.uri

    @property
    def config(self) -> StoreConfig:
        """The section that it was opened from."""
        return self._config

    @property
    def location(self) -> tuple[str, str]:
        """Bucket and prefix."""
        return self._bucket, self._prefix

    @property
    def capabilities(self) -> Capabilities:
        """What the endpoint does, as far as is known."""
        return self._capabilities

    @property
    def connection(self) -> Connection:
        """How it reaches its server."""
        return self._connection

    def endpoint(self) -> Endpoint:
        """Where the store is now, credentials included. Never log or pickle it."""
        return self._connection.endpoint()

    def client(self) -> Any:
        """The process's boto3 client of this endpoint."""
        return self._connection.client(has_checksums=self._capabilities.streamed_checksums)

    def learn(self, found: Capabilities, memory: Memory | None) -> None:
        """Take what was found out about the endpoint; `memory` keeps what is found out later."""
        self._capabilities = found
        self._memory = memory

    def __repr__(self) -> str:
        return f"S3Store({self.uri})"

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        target = self._target(key)
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if if_absent and not self._capabilities.create_only:
            self._look_before_creating(key)
            if_absent = False
        with self._connection.translated("write", key):
            if size >= PART_BYTES and not if_absent:
                upload(self.client(), target, source, extra=self.extra())
                etag = None
            else:
                etag = self._put_once(target, source, key, if_absent)
                if etag.strip('"') == _md5(source):
                    return
            self._verify_size(target, key, size, etag)

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        target = self._target(key)
        if size == 0:
            return b""
        if start or size is not None:
            target["Range"] = f"bytes={start}-{'' if size is None else start + size - 1}"
        with self._connection.translated("read", key):
            try:
                # Used as a context manager itself, a body would check neither its length nor its checksum.
                with closing(self.client().get_object(**target)["Body"]) as body:
                    data: bytes = body.read()
            except self.client().exceptions.ClientError as error:
                if code_of(error) in BEYOND_END:
                    return b""
                raise
            return data

    def download(self, key: str, path: Path) -> str:
        target = self._target(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"~{uuid.uuid4().hex}")
        try:
            with self._connection.translated("read", key):
                digest = download(self.client(), target, temporary)
            temporary.replace(path)
            return digest
        finally:
            temporary.unlink(missing_ok=True)

    def stat(self, key: str) -> ObjectInfo | None:
        target = self._target(key)
        try:
            with self._connection.translated("look at", key):
                head = self.client().head_object(**target)
        except ArtifactNotFound:
            return None
        return ObjectInfo(key=key, size_bytes=head["ContentLength"], modified_at_s=head["LastModified"].timestamp())

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        return self._in_order(prefix) if self._capabilities.lists_in_key_order else self._sorted(prefix)

    def delete(self, *keys: str) -> None:
        targets = [self._target(key) for key in keys]
        while len(targets) > 1 and self._capabilities.delete_many:
            if self._delete_many(targets[:_MAX_DELETED_AT_ONCE]):
                targets = targets[_MAX_DELETED_AT_ONCE:]
        for target in targets:
            with suppress(ArtifactNotFound), self._connection.translated("delete", target["Key"]):
                self.client().delete_object(**target)

    def sweep(self, older_than_s: float, now_s: float) -> int:
        """Drop uploads begun more than `older_than_s` before `now_s` and never completed. Returns how many."""
        with self._connection.translated("clean", self._prefix):
            return abort_stale(self.client(), self._bucket, self._prefix, older_than_s, now_s)

    def open_bucket(self, *, create: bool) -> None:
        """Check that the server answers, accepts the credentials and has the bucket.

        Raises:
            StoreUnavailable: Nobody answers.
            StoreDenied: The credentials are refused.
            ConfigError: There is no such bucket, and `create` is off; or the settings do not work.
        """
        with self._connection.translated("list", self._prefix):
            client = self.client()
            try:
                client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
            except client.exceptions.NoSuchBucket:
                if not create:
                    raise
                with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                    client.create_bucket(Bucket=self._bucket)

    def extra(self) -> dict[str, str]:
        """What every write asks for besides: encryption and tags, as arguments of PutObject and CreateMultipartUpload."""
        return {**encryption_of(self._config), **tagging_of(self._config)}

    def _target(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _look_before_creating(self, key: str) -> None:
        if not self._config.single_writer:
            message = f"{self.uri} has no create-only writes, and {key} must be created once: promotion, resume and leases need create-only writes."
            hint = "set `store.single_writer: true` if one process at a time writes, or use a server that honours `If-None-Match: *`."
            raise StoreError(message, hint=hint)
        if self.stat(key) is not None:
            raise Conflict(f"{key} exists already in {self.uri}.", hint="read it, then decide again.", key=key)

    def _put_once(self, target: dict[str, str], source: bytes | Path, key: str, if_absent: bool) -> str:
        from botocore.exceptions import ClientError

        condition = {"IfNoneMatch": "*"} if if_absent else {}
        with opened(source) as stream:
            try:
                answer = self.client().put_object(**target, **condition, **self.extra(), Body=stream)
            except ClientError as error:
                # The client's own second attempt meets the object that its first one created.
                is_repeated = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                if code_of(error) in EXISTS and is_repeated and self._holds(key, source):
                    return str(self.client().head_object(**target).get("ETag", ""))
                raise
        return str(answer.get("ETag", ""))

    def _holds(self, key: str, source: bytes | Path) -> bool:
        return self.get(key) == (source if isinstance(source, bytes) else source.read_bytes())

    def _verify_size(self, target: dict[str, str], key: str, size: int, etag: str | None) -> None:
        try:
            head = self.client().head_object(**target)
        except self.client().exceptions.ClientError as error:
            if code_of(error) not in ABSENT:
                raise
            head = {"ContentLength": -1, "ETag": etag}
        is_another_write = etag is not None and head.get("ETag", "") != etag
        if head["ContentLength"] == size or is_another_write:
            return
        if etag is not None:
            self.client().delete_object(**target)
        held = max(0, head["ContentLength"])
        message = f"{self.uri} confirmed {key} and then holds {held} of its {size} bytes."
        raise StoreUnavailable(message, hint="a gateway on the way drops bodies; `foundry doctor` checks the store.", uri=self.uri)

    def _delete_many(self, targets: Sequence[dict[str, str]]) -> bool:
        """Whether the server took the request."""
        objects = [{"Key": target["Key"]} for target in targets]
        with self._connection.translated("delete", f"{len(objects)} objects"):
            try:
                answer = self.client().delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
            except self.client().exceptions.ClientError as error:
                if is_denied(error) or is_passing(error) or code_of(error) == "NoSuchBucket":
                    raise
                _log.warning("%s refuses DeleteObjects (%s); objects are deleted one by one.", self.uri, code_of(error))
                self._learn(delete_many=False)
                return False
        failed = [error for error in answer.get("Errors", ()) if error.get("Code") not in ABSENT]
        if failed:
            raise refused_deletions(failed, self._connection.place)
        return True

    def _in_order(self, prefix: str) -> Iterator[ObjectInfo]:
        """Page by page; a page out of order is noticed before any of it is given away."""
        last = ""
        for page in self._pages(prefix):
            if all(before <= after for before, after in pairwise([last, *(info.key for info in page)])):
                yield from page
                last = page[-1].key
                continue
            self._learn(lists_in_key_order=False)
            if last:
                message = f"{self.uri} listed {prefix or 'its objects'} in key order at first, and then out of it."
                raise StoreError(message, hint="repeat the command: from now on the listings of this store are collected and sorted.")
            yield from self._sorted(prefix)
            return

    def _sorted(self, prefix: str) -> Iterator[ObjectInfo]:
        # Some servers list folder by folder, so that `a/x` comes before `a-b`.
        yield from sorted((info for page in self._pages(prefix) for info in page), key=lambda info: info.key)

    def _pages(self, prefix: str) -> Iterator[Sequence[ObjectInfo]]:
        with self._connection.translated("list", prefix):
            pages = listing.pages(self.client(), bucket=self._bucket, prefix=self._prefix + prefix, uri=self.uri)
        while True:
            with self._connection.translated("list", prefix):
                page = next(pages, None)
            if page is None:
                return
            yield [
                ObjectInfo(key=item["Key"][len(self._prefix) :], size_bytes=item["Size"], modified_at_s=item["LastModified"].timestamp())
                for item in page
            ]

    def _learn(self, **found: bool) -> None:
        self._capabilities = replace(self._capabilities, **found)
        if self._memory is not None and self._memory.probed_at_s is not None:
            self._memory.write(self._capabilities, uri=self.uri, probed_at_s=self._memory.probed_at_s)


def encryption_of(config: StoreConfig) -> dict[str, str]:
    """The arguments of a write that ask for encryption."""
    if config.encryption == "none":
        return {}
    key = {"SSEKMSKeyId": config.kms_key_id} if config.kms_key_id else {}
    return {"ServerSideEncryption": config.encryption, **key}


def tagging_of(config: StoreConfig) -> dict[str, str]:
    """The arguments of a write that ask for tags."""
    return {"Tagging": urlencode(config.tags)} if config.tags else {}


def _md5(source: bytes | Path) -> str:
    """What a server answers as ETag, unless it encrypts with a key of its own or makes up another one."""
    if isinstance(source, bytes):
        return hashlib.md5(source, usedforsecurity=False).hexdigest()
    with source.open("rb") as stream:
        return hashlib.file_digest(stream, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
