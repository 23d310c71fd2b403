"""What a request means is read from its method, path and query alone."""

from __future__ import annotations

import pytest

from foundry_ray.testing.exchanges import Answer, Request, refusal


@pytest.mark.parametrize(
    ("method", "target", "operation"),
    [
        ("PUT", "/bucket/a/b", "PutObject"),
        ("PUT", "/bucket/a/b?partNumber=1&uploadId=x", "UploadPart"),
        ("POST", "/bucket/a/b?uploads", "CreateMultipartUpload"),
        ("POST", "/bucket/a/b?uploadId=x", "CompleteMultipartUpload"),
        ("DELETE", "/bucket/a/b?uploadId=x", "AbortMultipartUpload"),
        ("GET", "/bucket/a/b?uploadId=x", "ListParts"),
        ("GET", "/bucket?list-type=2&prefix=a%2F", "ListObjectsV2"),
        ("GET", "/bucket?uploads", "ListMultipartUploads"),
        ("POST", "/bucket?delete", "DeleteObjects"),
        ("HEAD", "/bucket/", "HeadBucket"),
        ("GET", "/", "ListBuckets"),
        ("PATCH", "/bucket/a", "Unknown"),
    ],
)
def test_an_operation_is_known_by_method_path_and_query(method: str, target: str, operation: str) -> None:
    assert Request(method=method, target=target).operation == operation


def test_bucket_key_and_query_are_decoded() -> None:
    request = Request(method="GET", target="/bucket/a%3Db/c?prefix=x%2Fy&empty")
    assert (request.bucket, request.key, request.query) == ("bucket", "a=b/c", {"prefix": "x/y", "empty": ""})


def test_headers_are_removed_by_name_and_by_beginning() -> None:
    request = Request(method="GET", target="/", headers=(("X-Amz-Checksum-CRC32", "1"), ("Host", "h"), ("Range", "r")))
    assert request.without("x-amz-checksum-*", "range").headers == (("Host", "h"),)
    assert Answer(status=200, headers=request.headers).without("host").header("host") is None


def test_a_header_that_is_set_replaces_the_one_before() -> None:
    request = Request(method="GET", target="/", headers=(("If-Match", "a"),)).having(if_match="b")
    assert request.headers == (("if-match", "b"),)


def test_a_refusal_names_its_code() -> None:
    assert b"<Code>SlowDown</Code>" in refusal(503, "SlowDown").body
