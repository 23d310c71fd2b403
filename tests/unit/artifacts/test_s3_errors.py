"""What answers of a server, and failures on the way to it, mean."""

from __future__ import annotations

import pytest
from botocore import exceptions as boto

from foundry_ray.artifacts.s3.errors import Place, meaning, refused_deletions
from foundry_ray.errors import ArtifactNotFound, ConfigError, Conflict, FoundryError, StoreDenied, StoreError, StoreUnavailable

_PLACE = Place(uri="s3://b/x", bucket="b", address="http://host:9", unreachable_hint="look at the network.", denied_hint="look at the rights.")

ANSWERS: dict[tuple[str, int], tuple[type[FoundryError], str]] = {
    ("NoSuchKey", 404): (ArtifactNotFound, "a is not in s3://b/x"),
    ("404", 404): (ArtifactNotFound, "a is not in s3://b/x"),
    ("NoSuchBucket", 404): (ConfigError, r"there is no bucket 'b'\. Hint: `aws s3 mb s3://b`"),
    ("PreconditionFailed", 412): (Conflict, "a exists already"),
    ("ConditionalRequestConflict", 409): (Conflict, "a exists already"),
    ("AccessDenied", 403): (StoreDenied, r"it answered AccessDenied to write a\. Hint: look at the rights"),
    ("Whatever", 401): (StoreDenied, "it answered Whatever to write a"),
    ("SlowDown", 503): (StoreUnavailable, r"answered SlowDown when asked to write a\. Hint: look at the network"),
    ("Whatever", 500): (StoreUnavailable, "answered Whatever"),
    ("BadDigest", 400): (StoreUnavailable, r"received other bytes than were sent when asked to write a \(BadDigest\)"),
    ("400", 400): (StoreUnavailable, "answered 400 without a reason when asked to write a"),
    ("NotImplemented", 501): (StoreError, r"answered NotImplemented \(501\).*Hint: `foundry doctor` checks the store"),
    ("EntityTooLarge", 400): (StoreError, r"answered EntityTooLarge \(400\)"),
}


@pytest.mark.parametrize(("code", "status"), ANSWERS)
def test_an_answer_is_the_error_that_callers_know(code: str, status: int) -> None:
    kind, said = ANSWERS[code, status]
    answer = boto.ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")
    found = meaning(answer, action="write", key="a", place=_PLACE)
    assert type(found) is kind
    with pytest.raises(kind, match=said):
        raise found


FAILURES: dict[str, tuple[Exception, type[FoundryError], str]] = {
    "silence": (boto.EndpointConnectionError(endpoint_url="http://me:pw@host:9"), StoreUnavailable, "did not answer at http://host:9 when asked to"),
    "proxy": (boto.ProxyConnectionError(proxy_url="http://me:pw@gate"), StoreUnavailable, r"\(ProxyConnectionError\)\. Hint: check `store\.proxy`"),
    "no credentials": (boto.NoCredentialsError(), StoreDenied, "no usable credentials were found"),
    "certificate": (
        boto.SSLError(endpoint_url="https://host", error="[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"),
        ConfigError,
        r"with a certificate that is not trusted\. Hint: `store\.ca_bundle",
    ),
    "settings": (ValueError("Invalid endpoint: http://me:pw@ho st"), ConfigError, "are not usable: Invalid endpoint: http://ho st"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_on_the_way_says_what_to_check_and_no_password(name: str) -> None:
    error, kind, said = FAILURES[name]
    with pytest.raises(kind, match=said) as caught:
        raise meaning(error, action="read", key="a", place=_PLACE)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("codes", "kind"), [(["AccessDenied", "SlowDown"], StoreDenied), (["SlowDown", "InternalError"], StoreUnavailable), (["Odd"], StoreError)]
)
def test_deletions_that_failed_are_counted_and_told_apart(codes: list[str], kind: type[StoreError]) -> None:
    found = refused_deletions([{"Key": f"x/{code}", "Code": code} for code in codes], _PLACE)
    assert type(found) is kind
    assert f"did not delete {len(codes)} objects, x/{codes[0]} among them: it answered" in found.message
