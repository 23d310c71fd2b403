"""Signatures agree with botocore's, whatever was changed before."""

from __future__ import annotations

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from foundry_ray.testing.exchanges import Request
from foundry_ray.testing.signing import Signer

SIGNER = Signer(access_key="someone", secret_key="hidden")


def _signed(method: str, target: str, body: bytes = b"", **headers: str) -> Request:
    """A request as botocore signs it."""
    request = AWSRequest(method=method, url=f"http://host:1{target}", data=body, headers={"Host": "host:1", **headers})
    S3SigV4Auth(Credentials("someone", "hidden"), "s3", "us-east-1").add_auth(request)
    return Request(method=method, target=target, headers=tuple(request.headers.items()), body=body)


def _signature(request: Request) -> str:
    return (request.header("authorization") or "").rpartition("Signature=")[2]


def test_a_signature_is_the_one_that_botocore_computes() -> None:
    for target in ("/bucket/a%3Db", "/bucket?list-type=2&prefix=a%2F&max-keys=1", "/bucket/a?uploads"):
        request = _signed("PUT", target, b"body", **{"x-amz-tagging": "a=b"})
        assert _signature(SIGNER.sign(request)) == _signature(request)


def test_another_body_gets_its_own_hash() -> None:
    changed = _signed("PUT", "/bucket/a", b"body").having(x_amz_content_sha256="old")
    assert SIGNER.sign(changed).header("x-amz-content-sha256") == "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5"


def test_what_another_account_signed_stays_as_it_is() -> None:
    request = _signed("GET", "/bucket/a")
    assert Signer(access_key="other", secret_key="x").sign(request) is request
    assert SIGNER.sign(Request(method="GET", target="/")) == Request(method="GET", target="/")


def test_the_secret_is_not_shown() -> None:
    assert "hidden" not in repr(SIGNER)
