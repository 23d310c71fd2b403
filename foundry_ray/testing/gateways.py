"""Weak gateways: layers of a Proxy that behave as S3-compatible servers in use do, each in one respect.

What a client signed is changed here, so each takes the `Signer` of the server behind it where it has to sign again. `GATEWAYS` names all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import quote

from foundry_ray.testing.exchanges import Answer, Forward, Layer, Request, refusal
from foundry_ray.testing.signing import Signer

_OF_CHECKSUMS = ("x-amz-checksum-*", "x-amz-sdk-checksum-*")
_WRITES = ("PUT", "POST", "DELETE")
_TOKEN = re.compile(rb"<NextContinuationToken>(.*?)</NextContinuationToken>")
_NUM_KEYS = re.compile(rb"<KeyCount>\d+</KeyCount>")
_ITEMS = re.compile(rb"<Contents>.*</Contents>|<CommonPrefixes>.*</CommonPrefixes>", re.DOTALL)
_CHECKSUMS = re.compile(rb"<Checksum(\w+)>[^<]*</Checksum\1>")


def ignores_create_only(signer: Signer) -> Layer:
    """`If-None-Match: *` is ignored: of racing creators all win."""
    return _dropping(signer, "PutObject", "CompleteMultipartUpload")


def ignores_create_only_of_parts(signer: Signer) -> Layer:
    """`If-None-Match: *` counts for whole objects and is ignored where an upload in parts is completed."""
    return _dropping(signer, "CompleteMultipartUpload")


def refuses_delete_many(signer: Signer) -> Layer:
    """DeleteObjects wants a Content-MD5, which clients do not send any more."""
    return _refusing(400, "MissingContentMD5", "DeleteObjects")


def refuses_trailers(signer: Signer) -> Layer:
    """Bodies with a checksum behind them (aws-chunked) are refused."""

    def act(request: Request, forward: Forward) -> Answer:
        return refusal(411, "MissingContentLength") if _is_chunked(request) else forward(request)

    return act


def loses_chunked_bodies(signer: Signer) -> Layer:
    """Bodies with a checksum behind them are stored as 0 bytes, with a 200."""

    def act(request: Request, forward: Forward) -> Answer:
        if not _is_chunked(request):
            return forward(request)
        empty = replace(request.without("content-encoding", "x-amz-trailer", "x-amz-decoded-content-length", *_OF_CHECKSUMS), body=b"")
        return forward(signer.sign(empty.having(x_amz_content_sha256="UNSIGNED-PAYLOAD")))

    return act


def drops_checksums(signer: Signer) -> Layer:
    """Checksums are accepted, neither verified nor kept nor returned."""

    def act(request: Request, forward: Forward) -> Answer:
        plain = request.without(*_OF_CHECKSUMS)
        if request.operation == "CompleteMultipartUpload":
            plain = replace(plain, body=_CHECKSUMS.sub(b"", request.body))
        answer = forward(signer.sign(plain) if plain != request else request)
        return answer.without(*_OF_CHECKSUMS)

    return act


def lists_in_one_page(signer: Signer) -> Layer:
    """A listing of any length comes in one page, whatever `max-keys` says."""

    def act(request: Request, forward: Forward) -> Answer:
        if request.operation != "ListObjectsV2":
            return forward(request)
        first = answer = forward(request)
        items = _items(answer)
        while answer.status == 200 and (token := _TOKEN.search(answer.body)):
            answer = forward(signer.sign(_asking(request, {"continuation-token": token[1].decode()})))
            items += _items(answer)
        num_keys = b"<KeyCount>%d</KeyCount>" % items.count(b"</Key>")
        whole = _NUM_KEYS.sub(num_keys, _TOKEN.sub(b"", first.body)).replace(b"<IsTruncated>true<", b"<IsTruncated>false<")
        return replace(first, body=_ITEMS.sub(b"", whole).replace(b"</ListBucketResult>", items + b"</ListBucketResult>"))

    return act


def lists_in_small_pages(signer: Signer) -> Layer:
    """A page has 7 keys at most, whatever `max-keys` says."""

    def act(request: Request, forward: Forward) -> Answer:
        is_listing = request.operation == "ListObjectsV2"
        return forward(signer.sign(_asking(request, {"max-keys": "7"})) if is_listing else request)

    return act


def forgets_where_it_was(signer: Signer) -> Layer:
    """Continuation tokens are ignored: every page of 7 keys is the first one."""

    def act(request: Request, forward: Forward) -> Answer:
        if request.operation != "ListObjectsV2":
            return forward(request)
        return forward(signer.sign(_asking(request, {"max-keys": "7", "continuation-token": None})))

    return act


def wants_bare_etags(signer: Signer) -> Layer:
    """`If-Match` holds only where the ETag comes without its quotes."""

    def act(request: Request, forward: Forward) -> Answer:
        etag = request.header("if-match")
        if etag is None:
            return forward(request)
        if '"' in etag:
            return refusal(412, "PreconditionFailed")
        return forward(signer.sign(request.having(if_match=f'"{etag}"')))

    return act


def lists_no_uploads(signer: Signer) -> Layer:
    """Nobody can ask which uploads in parts are under way, and which parts they have."""
    return _refusing(501, "NotImplemented", "ListMultipartUploads", "ListParts")


def has_no_tags(signer: Signer) -> Layer:
    """Neither tags nor lifecycle rules."""
    names = ("PutObjectTagging", "GetObjectTagging", "DeleteObjectTagging", "PutBucketTagging", "GetBucketTagging")
    rules = ("GetBucketLifecycleConfiguration", "PutBucketLifecycleConfiguration")

    def act(request: Request, forward: Forward) -> Answer:
        is_meant = request.operation in (*names, *rules) or request.header("x-amz-tagging") is not None
        return refusal(501, "NotImplemented") if is_meant else forward(request)

    return act


def ignores_encryption(signer: Signer) -> Layer:
    """Wishes for encryption are ignored, and so never confirmed."""

    def act(request: Request, forward: Forward) -> Answer:
        plain = request.without("x-amz-server-side-encryption*")
        return forward(signer.sign(plain) if plain != request else request).without("x-amz-server-side-encryption*")

    return act


def is_read_only(signer: Signer) -> Layer:
    """The account may read and list, and nothing else."""

    def act(request: Request, forward: Forward) -> Answer:
        return refusal(403, "AccessDenied") if request.method in _WRITES else forward(request)

    return act


GATEWAYS: Mapping[str, Callable[[Signer], Layer]] = {
    make.__name__: make
    for make in (
        ignores_create_only,
        ignores_create_only_of_parts,
        refuses_delete_many,
        refuses_trailers,
        loses_chunked_bodies,
        drops_checksums,
        lists_in_one_page,
        lists_in_small_pages,
        forgets_where_it_was,
        wants_bare_etags,
        lists_no_uploads,
        has_no_tags,
        ignores_encryption,
        is_read_only,
    )
}


def _dropping(signer: Signer, *operations: str) -> Layer:
    """Ignore `If-None-Match` of these operations."""

    def act(request: Request, forward: Forward) -> Answer:
        is_meant = request.operation in operations and request.header("if-none-match") is not None
        return forward(signer.sign(request.without("if-none-match")) if is_meant else request)

    return act


def _refusing(status: int, code: str, *operations: str) -> Layer:
    def act(request: Request, forward: Forward) -> Answer:
        return refusal(status, code) if request.operation in operations else forward(request)

    return act


def _is_chunked(request: Request) -> bool:
    return "aws-chunked" in (request.header("content-encoding") or "") or request.header("x-amz-trailer") is not None


def _asking(request: Request, changes: Mapping[str, str | None]) -> Request:
    """The request with other query parameters; None removes one."""
    query = {**request.query, **changes}
    text = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in query.items() if value is not None)
    return replace(request, target=f"{request.target.partition('?')[0]}?{text}")


def _items(answer: Answer) -> bytes:
    return b"".join(_ITEMS.findall(answer.body))
