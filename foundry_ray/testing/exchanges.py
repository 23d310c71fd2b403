"""What travels between an S3 client and its server, as data: a request, an answer, and the layers that may change either.

A layer is a function of a request and of the way onward; it forwards, refuses, changes, or raises Dropped. Layers nest, so that a weak
gateway may also fail. Buckets are read from the path (path-style addressing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, unquote, urlsplit

Headers = tuple[tuple[str, str], ...]

# (method, where, mark in the query) -> operation, the first that fits
_OPERATIONS = (
    ("GET", "object", "uploadId", "ListParts"),
    ("GET", "object", "tagging", "GetObjectTagging"),
    ("GET", "object", "", "GetObject"),
    ("HEAD", "object", "", "HeadObject"),
    ("PUT", "object", "partNumber", "UploadPart"),
    ("PUT", "object", "tagging", "PutObjectTagging"),
    ("PUT", "object", "", "PutObject"),
    ("POST", "object", "uploads", "CreateMultipartUpload"),
    ("POST", "object", "uploadId", "CompleteMultipartUpload"),
    ("DELETE", "object", "uploadId", "AbortMultipartUpload"),
    ("DELETE", "object", "tagging", "DeleteObjectTagging"),
    ("DELETE", "object", "", "DeleteObject"),
    ("GET", "bucket", "uploads", "ListMultipartUploads"),
    ("GET", "bucket", "list-type", "ListObjectsV2"),
    ("GET", "bucket", "lifecycle", "GetBucketLifecycleConfiguration"),
    ("GET", "bucket", "tagging", "GetBucketTagging"),
    ("GET", "bucket", "versioning", "GetBucketVersioning"),
    ("GET", "bucket", "", "ListObjects"),
    ("HEAD", "bucket", "", "HeadBucket"),
    ("PUT", "bucket", "lifecycle", "PutBucketLifecycleConfiguration"),
    ("PUT", "bucket", "tagging", "PutBucketTagging"),
    ("PUT", "bucket", "", "CreateBucket"),
    ("POST", "bucket", "delete", "DeleteObjects"),
    ("DELETE", "bucket", "", "DeleteBucket"),
    ("GET", "service", "", "ListBuckets"),
)


class Dropped(Exception):
    """The connection to the client ends here, without an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked. `target` is path and query exactly as sent; `is_torn` says that it went away before its body ended."""

    method: str
    target: str
    headers: Headers = ()
    body: bytes = b""
    is_torn: bool = False

    @property
    def query(self) -> Mapping[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def bucket(self) -> str:
        return unquote(urlsplit(self.target).path).lstrip("/").partition("/")[0]

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.target).path).lstrip("/").partition("/")[2]

    @property
    def operation(self) -> str:
        """What S3 calls it; "Unknown" for what is not in the table."""
        where = "object" if self.key else "bucket" if self.bucket else "service"
        fitting = (row for row in _OPERATIONS if row[:2] == (self.method, where) and (not row[2] or row[2] in self.query))
        return next((row[3] for row in fitting), "Unknown")

    def header(self, name: str) -> str | None:
        return _find(self.headers, name)

    def without(self, *names: str) -> Request:
        """Without these headers."""
        return replace(self, headers=without(self.headers, *names))

    def having(self, **headers: str) -> Request:
        """With these headers (`_` for `-`) instead of what they were."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return replace(self, headers=(*without(self.headers, *named), *named.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What comes back. With `cut_at`, the connection ends after so many bytes of the body that the headers promise."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    cut_at: int | None = None

    def header(self, name: str) -> str | None:
        return _find(self.headers, name)

    def without(self, *names: str) -> Answer:
        """Without these headers."""
        return replace(self, headers=without(self.headers, *names))


Forward = Callable[[Request], Answer]
Layer = Callable[[Request, Forward], Answer]


def refusal(status: int, code: str, message: str = "It is a test.") -> Answer:
    """An error as S3 servers write it."""
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status=status, headers=(("Content-Type", "application/xml"),), body=body.encode())


def _find(headers: Headers, name: str) -> str | None:
    return next((value for known, value in headers if known.lower() == name.lower()), None)


def without(headers: Headers, *names: str) -> Headers:
    """Headers but those whose lower-case name is, or begins like `x-*`, one of these."""

    def is_meant(header: str) -> bool:
        return any(header.startswith(name[:-1]) if name.endswith("*") else header == name for name in names)

    return tuple((name, value) for name, value in headers if not is_meant(name.lower()))
