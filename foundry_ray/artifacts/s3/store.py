"""A store in a bucket of any S3-compatible server, over boto3.

Decides: how the client is tuned, which answers mean which error, and that every upload's size is verified. Leaves repetition over
longer outages to `retrying`. Credentials live in an `Endpoint` (hidden from repr) and in boto3's client, never in the pickle: a store
that lands in another process asks its `connect` again.

Bodies are signed on plain http to other machines; loopback and https carry unsigned payloads, which is 1.5x faster.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from foundry_ray.artifacts.keys import check_key, check_prefix
from foundry_ray.artifacts.s3.client import PART_BYTES, Endpoint, client_of
from foundry_ray.artifacts.s3.transfer import download, opened, upload
from foundry_ray.errors import ArtifactNotFound, ConfigError, Conflict, StoreDenied, StoreError, StoreUnavailable
from foundry_ray.protocols import ObjectInfo

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_DENIED = {"401", "403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch"}
_EXISTS = {"409", "412", "ConditionalRequestConflict", "PreconditionFailed"}
_BEYOND_END = {"416", "InvalidRange"}
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_PASSING = {"429", "InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "TooManyRequests"}


class S3Store:
    """ArtifactStore under `prefix` of a bucket.

    Args:
        uri: What users call it; without credentials.
        bucket: The bucket; it must exist, but see `open_bucket`.
        prefix: Put before every key, with a slash at its end, or empty.
        connect: Gives the endpoint; picklable and without secrets in it. Asked again after the server was not reached.
        hint: What to do where the server does not answer.
    """

    def __init__(self, *, uri: str, bucket: str, prefix: str, connect: Callable[[], Endpoint], hint: str) -> None:
        self._uri = uri
        self._bucket = bucket
        self._prefix = prefix
        self._connect = connect
        self._hint = hint
        self._known_endpoint: Endpoint | None = None

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def location(self) -> tuple[str, str]:
        """Bucket and prefix."""
        return self._bucket, self._prefix

    def endpoint(self) -> Endpoint:
        """Where the store is now, credentials included. Never log or pickle it."""
        if self._known_endpoint is None:
            self._known_endpoint = self._connect()
        return self._known_endpoint

    def client(self) -> Any:
        """The process's boto3 client of this endpoint."""
        return client_of(self.endpoint())

    def __repr__(self) -> str:
        return f"S3Store({self._uri})"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_known_endpoint": None}

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        target = self._target(key)
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        with self._translated("write", key):
            if size >= PART_BYTES and not if_absent:
                upload(self.client(), target, source)
                etag = None
            else:
                etag = self._put_once(target, source, key, if_absent)
            self._verify_size(target, key, size, etag)

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        target = self._target(key)
        if size == 0:
            return b""
        if start or size is not None:
            target["Range"] = f"bytes={start}-{'' if size is None else start + size - 1}"
        with self._translated("read", key):
            try:
                with self.client().get_object(**target)["Body"] as body:
                    data: bytes = body.read()
            except self.client().exceptions.ClientError as error:
                if _code(error) in _BEYOND_END:
                    return b""
                raise
            return data

    def download(self, key: str, path: Path) -> str:
        target = self._target(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"~{uuid.uuid4().hex}")
        try:
            with self._translated("read", key):
                digest = download(self.client(), target, temporary)
            temporary.replace(path)
            return digest
        finally:
            temporary.unlink(missing_ok=True)

    def stat(self, key: str) -> ObjectInfo | None:
        target = self._target(key)
        try:
            with self._translated("look at", key):
                head = self.client().head_object(**target)
        except ArtifactNotFound:
            return None
        return ObjectInfo(key=key, size_bytes=head["ContentLength"], modified_at_s=head["LastModified"].timestamp())

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._translated("list", prefix):
            pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)
            found = [
                ObjectInfo(key=item["Key"][len(self._prefix) :], size_bytes=item["Size"], modified_at_s=item["LastModified"].timestamp())
                for page in pages
                for item in page.get("Contents", ())
            ]
        # Some servers list folder by folder, so that `a/x` comes before `a-b`.
        return iter(sorted(found, key=lambda info: info.key))

    def delete(self, *keys: str) -> None:
        for key in keys:
            target = self._target(key)
            with suppress(ArtifactNotFound), self._translated("delete", key):
                self.client().delete_object(**target)

    def open_bucket(self, *, create: bool) -> None:
        """Check that the server answers, accepts the credentials and has the bucket.

        Raises:
            StoreUnavailable: Nobody answers.
            StoreDenied: The credentials are refused.
            ConfigError: There is no such bucket, and `create` is off.
        """
        with self._translated("list", self._prefix):
            client = self.client()
            try:
                client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
            except client.exceptions.NoSuchBucket:
                if not create:
                    raise
                with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                    client.create_bucket(Bucket=self._bucket)

    def check_create_only(self) -> None:
        """Prove that a create-only write refuses to overwrite; leases and journals rest on it. Raises StoreError where it does not."""
        key = f"probe/{uuid.uuid4().hex}"
        self.put(key, b"1", if_absent=True)
        try:
            self.put(key, b"2", if_absent=True)
        except Conflict:
            return
        finally:
            self.delete(key)
        message = f"{self._uri} ignores `If-None-Match: *` and overwrites objects, so that two runs could destroy each other's journal."
        raise StoreError(message, hint="use a server that honours conditional writes, or `store: embedded` or `store: file:///path`.")

    def _target(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _put_once(self, target: dict[str, str], source: bytes | Path, key: str, if_absent: bool) -> str:
        from botocore.exceptions import ClientError

        condition = {"IfNoneMatch": "*"} if if_absent else {}
        with opened(source) as stream:
            try:
                answer = self.client().put_object(**target, **condition, Body=stream)
            except ClientError as error:
                # The client's own second attempt meets the object that its first one created.
                is_repeated = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                if _code(error) in _EXISTS and is_repeated and self._holds(key, source):
                    return str(self.client().head_object(**target)["ETag"])
                raise
        return str(answer["ETag"])

    def _holds(self, key: str, source: bytes | Path) -> bool:
        return self.get(key) == (source if isinstance(source, bytes) else source.read_bytes())

    def _verify_size(self, target: dict[str, str], key: str, size: int, etag: str | None) -> None:
        try:
            head = self.client().head_object(**target)
        except self.client().exceptions.ClientError as error:
            if _code(error) not in _ABSENT:
                raise
            head = {"ContentLength": -1, "ETag": etag}
        is_another_write = etag is not None and head["ETag"] != etag
        if head["ContentLength"] == size or is_another_write:
            return
        if etag is not None:
            self.client().delete_object(**target)
        held = max(0, head["ContentLength"])
        message = f"{self._uri} confirmed {key} and then holds {held} of its {size} bytes."
        raise StoreUnavailable(message, hint="a gateway on the way drops bodies; `foundry doctor` checks the store.", uri=self._uri)

    @contextmanager
    def _translated(self, action: str, key: str) -> Iterator[None]:
        from botocore import exceptions as boto
        from s3transfer.exceptions import RetriesExceededError

        try:
            yield
        except boto.ClientError as error:
            raise self._refusal(error, action, key) from error
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.TokenRetrievalError) as error:
            raise self._denied(f"no usable credentials were found ({type(error).__name__})") from error
        except (boto.ParamValidationError, boto.ProfileNotFound, boto.NoRegionError, boto.ConfigParseError, ValueError) as error:
            raise ConfigError(
                f"the settings of {self._uri} are not usable: {error}.", hint="check the bucket's name, AWS_PROFILE and AWS_ENDPOINT_URL."
            ) from error
        except (boto.BotoCoreError, RetriesExceededError) as error:
            where, self._known_endpoint = self._where(), None
            message = f"{self._uri} did not answer at {where} when asked to {action} {key or 'its objects'} ({type(error).__name__})."
            raise StoreUnavailable(message, hint=self._hint, uri=self._uri) from error

    def _where(self) -> str:
        """Scheme, host and port of the server; a user in the URL stays out of it."""
        parts = urlsplit(self.client().meta.endpoint_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def _refusal(self, error: ClientError, action: str, key: str) -> StoreError | ConfigError:
        code = _code(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchBucket":
            return ConfigError(f"{self._uri}: there is no bucket {self._bucket!r}.", hint=f"`aws s3 mb s3://{self._bucket}` creates it.")
        if code in _ABSENT:
            return ArtifactNotFound(f"{key} is not in {self._uri}.", hint="`foundry runs list` shows what the store holds.", key=key)
        if code in _EXISTS:
            return Conflict(f"{key} exists already in {self._uri}.", hint="read it, then decide again.", key=key)
        if code in _DENIED or status in (401, 403):
            return self._denied(f"it answered {code} to {action} {key}")
        if code in _PASSING or status >= 500:
            return StoreUnavailable(f"{self._uri} answered {code} when asked to {action} {key}.", hint=self._hint, uri=self._uri)
        return StoreError(
            f"{self._uri} answered {code} ({status}) when asked to {action} {key}.", hint="`foundry doctor` checks the store; see also AWS_REGION."
        )

    def _denied(self, reason: str) -> StoreDenied:
        hint = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and their rights on the bucket."
        if self._uri == "embedded":
            hint = "`foundry store stop`, then repeat: the server starts again with the credentials of this FOUNDRY_HOME."
        return StoreDenied(f"{self._uri} refused: {reason}.", hint=hint, uri=self._uri)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
