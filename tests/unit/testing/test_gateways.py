"""Each weak gateway is weak in its one respect; requests that do not touch it pass as they came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from foundry_ray.testing import gateways
from foundry_ray.testing.exchanges import Answer, Request
from foundry_ray.testing.signing import Signer

SIGNER = Signer(access_key="someone", secret_key="hidden")
SIGNED = (
    ("host", "h"),
    ("authorization", "Credential=someone/..."),
    ("x-amz-date", "20260101T000000Z"),
    ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
)


def _request(method: str, target: str, body: bytes = b"", **headers: str) -> Request:
    return Request(method=method, target=target, headers=SIGNED, body=body).having(**headers)


def _pass(make: Callable[[Signer], gateways.Layer], request: Request, answer: Answer | None = None) -> tuple[Answer, list[Request]]:
    """What the client gets, and what the server behind the gateway was asked."""
    asked: list[Request] = []

    def server(request: Request) -> Answer:
        asked.append(request)
        return answer or Answer(status=200)

    return make(SIGNER)(request, server), asked


@pytest.mark.parametrize("name", sorted(gateways.GATEWAYS))
def test_a_plain_read_passes_untouched(name: str) -> None:
    request = _request("GET", "/bucket/a")
    assert _pass(gateways.GATEWAYS[name], request, Answer(status=200, body=b"1")) == (Answer(status=200, body=b"1"), [request])


def test_a_condition_is_dropped_and_the_rest_is_signed_again() -> None:
    put, complete = _request("PUT", "/bucket/a", if_none_match="*"), _request("POST", "/bucket/a?uploadId=1", if_none_match="*")
    for make, request, is_dropped in (
        (gateways.ignores_create_only, put, True),
        (gateways.ignores_create_only, complete, True),
        (gateways.ignores_create_only_of_parts, put, False),
        (gateways.ignores_create_only_of_parts, complete, True),
    ):
        (asked,) = _pass(make, request)[1]
        assert (asked.header("if-none-match") is None) == is_dropped
        assert (asked.header("authorization") != request.header("authorization")) == is_dropped


def test_what_is_not_there_is_refused_in_the_words_of_real_servers() -> None:
    cases = [
        (gateways.refuses_delete_many, _request("POST", "/bucket?delete"), 400, b"MissingContentMD5"),
        (gateways.refuses_trailers, _request("PUT", "/bucket/a", x_amz_trailer="x-amz-checksum-crc32"), 411, b"MissingContentLength"),
        (gateways.lists_no_uploads, _request("GET", "/bucket?uploads"), 501, b"NotImplemented"),
        (gateways.has_no_tags, _request("PUT", "/bucket/a", x_amz_tagging="a=b"), 501, b"NotImplemented"),
        (gateways.is_read_only, _request("DELETE", "/bucket/a"), 403, b"AccessDenied"),
        (gateways.wants_bare_etags, _request("GET", "/bucket/a", if_match='"x"'), 412, b"PreconditionFailed"),
    ]
    for make, request, status, code in cases:
        answer, asked = _pass(make, request)
        assert (answer.status, code in answer.body, asked) == (status, True, [])


def test_a_bare_etag_holds() -> None:
    (asked,) = _pass(gateways.wants_bare_etags, _request("GET", "/bucket/a", if_match="x"))[1]
    assert asked.header("if-match") == '"x"'


def test_a_chunked_body_is_lost() -> None:
    answer, (asked,) = _pass(gateways.loses_chunked_bodies, _request("PUT", "/bucket/a", b"4\r\nbody", content_encoding="aws-chunked"))
    assert (answer.status, asked.body, asked.header("content-encoding")) == (200, b"", None)


def test_checksums_are_dropped_on_both_ways() -> None:
    request = _request("POST", "/bucket/a?uploadId=1", b"<ETag>x</ETag><ChecksumCRC32>y</ChecksumCRC32>", x_amz_checksum_crc32="y")
    answer, (asked,) = _pass(gateways.drops_checksums, request, Answer(status=200, headers=(("x-amz-checksum-crc32", "y"),)))
    assert (answer.headers, asked.body, asked.header("x-amz-checksum-crc32")) == ((), b"<ETag>x</ETag>", None)


def test_a_wish_for_encryption_is_not_confirmed() -> None:
    wish = _request("PUT", "/bucket/a", x_amz_server_side_encryption="AES256")
    answer, (asked,) = _pass(gateways.ignores_encryption, wish, Answer(status=200, headers=(("x-amz-server-side-encryption", "AES256"),)))
    assert (answer.headers, asked.header("x-amz-server-side-encryption")) == ((), None)


def _pages(request: Request) -> Answer:
    """A server with two pages of one key each."""
    is_second = "continuation-token" in request.query
    token = b"" if is_second else b"<NextContinuationToken>t/2</NextContinuationToken>"
    head = b"<ListBucketResult><IsTruncated>%s</IsTruncated><KeyCount>1</KeyCount>" % (b"false" if is_second else b"true")
    return Answer(status=200, body=head + token + b"<Contents><Key>%s</Key></Contents></ListBucketResult>" % (b"b" if is_second else b"a"))


def test_all_pages_come_as_one() -> None:
    answer = gateways.lists_in_one_page(SIGNER)(_request("GET", "/bucket?list-type=2&max-keys=1"), _pages)
    assert answer == replace(
        _pages(_request("GET", "/bucket?list-type=2&continuation-token=x")),
        body=b"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>2</KeyCount>"
        b"<Contents><Key>a</Key></Contents><Contents><Key>b</Key></Contents></ListBucketResult>",
    )


def test_a_token_is_forgotten_and_pages_are_small() -> None:
    request = _request("GET", "/bucket?list-type=2&prefix=a%2F&continuation-token=t&max-keys=1000")
    assert gateways.forgets_where_it_was(SIGNER)(request, _pages) == _pages(_request("GET", "/bucket?list-type=2"))
    (asked,) = _pass(gateways.lists_in_small_pages, request)[1]
    assert asked.query == {"list-type": "2", "prefix": "a/", "continuation-token": "t", "max-keys": "7"}
