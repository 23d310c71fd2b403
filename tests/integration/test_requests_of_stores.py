"""How the section of a store reaches its requests, and how many there are; on moto, behind a proxy."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from foundry_ray.artifacts import open_store, protect_uploads, s3
from foundry_ray.errors import ConfigError, StoreDenied, StoreError
from foundry_ray.testing import gateways
from foundry_ray.testing.accounts import Account
from foundry_ray.testing.exchanges import Answer, Forward, Layer, Request, refusal
from foundry_ray.testing.signing import Signer

_SIGNER = Signer(access_key="someone", secret_key="hidden-secret")


def _refusing(is_meant: Callable[[Request], bool], status: int, code: str) -> Layer:
    return lambda request, forward: refusal(status, code) if is_meant(request) else forward(request)


def test_encryption_is_asked_for_and_must_be_confirmed(account: Account) -> None:
    with account.at(encryption="aws:kms", kms_key_id="alias/foundry") as (config, _):
        store = account.open(config)
        store.put("small", b"1")
        store.put("big", b"x" * (17 << 20))
        client = account.client()
        heads = [client.head_object(Bucket="account", Key=f"team/{name}") for name in ("small", "big")]
        assert [head["ServerSideEncryption"] for head in heads] == ["aws:kms", "aws:kms"]
    ignoring = account.at(gateways.ignores_encryption(_SIGNER), encryption="AES256")
    with (
        ignoring as (config, _),
        pytest.raises(StoreError, match=r"`store.encryption: AES256` and does not confirm.*Hint: use a server that encrypts"),
    ):
        account.open(config)


def test_tags_are_on_every_object_and_must_be_taken(account: Account) -> None:
    tags = {"cost centre": "a/b=1", "team": "ünïts"}
    with account.at(tags=tags) as (config, _):
        account.open(config).put("a", b"1")
        client = account.client()
        found = client.get_object_tagging(Bucket="account", Key="team/a")["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in found} == tags
    untaken: dict[str, Layer] = {
        r"refuses writes with `store.tags` \(NotImplemented\)": gateways.has_no_tags(_SIGNER),
        "took a write with `store.tags` and does not keep them": lambda request, forward: forward(request.without("x-amz-tagging")),
    }
    for said, layer in untaken.items():
        with account.at(layer, tags=tags) as (config, _), pytest.raises(StoreError, match=said):
            account.open(config)
    assert account.keys() == ["team/a"]


def test_rights_that_only_tags_need_are_not_taken_for_read_only(account: Account) -> None:
    forbidden = _refusing(lambda request: request.header("x-amz-tagging") is not None, 403, "AccessDenied")
    with account.at(forbidden, tags={"a": "b"}) as (config, _), pytest.raises(StoreError, match=r"`store.tags` \(AccessDenied\).*grant its rights"):
        account.open(config)


def test_a_lifecycle_rule_joins_those_of_the_bucket(account: Account) -> None:
    other = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 30}}
    with account.at() as (config, _):
        client = account.client()
        client.put_bucket_lifecycle_configuration(Bucket="account", LifecycleConfiguration={"Rules": [other]})
        store = account.open(config)
        assert [protect_uploads(store), protect_uploads(store)] == ["added", "present"]
        rules = client.get_bucket_lifecycle_configuration(Bucket="account")["Rules"]
    assert rules[0] == other
    assert (rules[1]["Filter"]["Prefix"], rules[1]["AbortIncompleteMultipartUpload"]) == ("team/", {"DaysAfterInitiation": 7})


def test_where_a_lifecycle_rule_cannot_be_it_is_said(account: Account, tmp_path: Path) -> None:
    for answer, status, code in (("unsupported", 501, "NotImplemented"), ("denied", 403, "AccessDenied")):
        with account.at(_refusing(lambda request: "lifecycle" in request.query, status, code)) as (config, _):
            assert protect_uploads(account.open(config)) == answer
    assert protect_uploads(open_store(tmp_path.as_uri(), settings=account.settings)) == "not needed"


def test_a_write_is_proven_by_its_answer(account: Account) -> None:
    with account.at() as (config, proxy):
        store = account.open(config)
        before = proxy.count()
        store.put("a", b"12345")
        store.put("b", b"12345", if_absent=True)
        assert proxy.count() - before == 2


def test_a_write_with_an_etag_that_proves_nothing_is_looked_at(account: Account) -> None:
    def makes_up(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        return replace(answer, headers=(*answer.without("etag").headers, ("ETag", '"made-up"'))) if request.method == "PUT" else answer

    with account.at(makes_up) as (config, proxy):
        store = account.open(config)
        before = proxy.count("HeadObject")
        store.put("a", b"12345")
        assert proxy.count("HeadObject") - before == 1


def test_deletion_is_one_request_for_a_thousand_and_says_what_stayed(account: Account) -> None:
    def keeps_one(request: Request, forward: Forward) -> Answer:
        if request.operation != "DeleteObjects" or b"team/kept" not in request.body:
            return forward(request)
        error = "<Error><Key>team/kept</Key><Code>AccessDenied</Code></Error>"
        return Answer(status=200, headers=(("Content-Type", "application/xml"),), body=f"<DeleteResult>{error}</DeleteResult>".encode())

    with account.at(keeps_one) as (config, proxy):
        store = account.open(config)
        before = proxy.count("DeleteObject", "DeleteObjects")
        store.delete(*(f"none/{number}" for number in range(2_001)))
        assert proxy.count("DeleteObject", "DeleteObjects") - before == 3
        with pytest.raises(StoreDenied, match="did not delete 1 objects, team/kept among them: it answered AccessDenied"):
            store.delete("a", "kept")


def test_a_refusal_to_delete_many_is_learnt_on_the_way_and_remembered(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    is_weak = False

    def grows_weak(request: Request, forward: Forward) -> Answer:
        return refusal(400, "MissingContentMD5") if is_weak and request.operation == "DeleteObjects" else forward(request)

    with account.at(grows_weak) as (config, proxy):
        store = account.open(config)
        is_weak = True
        for name in ("a", "b"):
            store.put(name, b"1")
        store.delete("a", "b")
        assert "refuses DeleteObjects (MissingContentMD5)" in caplog.text
        assert account.keys() == []
        before = proxy.count("DeleteObjects")
        account.open(config).delete("a", "b")
        assert proxy.count("DeleteObjects") == before


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_certificate_counts_where_it_is_trusted(account: Account) -> None:
    with account.at(tls=True) as (config, _):
        account.open(config).put("a", b"1")
        with pytest.raises(ConfigError, match=r"https://localhost:\d+ with a certificate that is not trusted.*Hint: `store.ca_bundle"):
            account.open(config.model_copy(update={"ca_bundle": None}))
        unverified = account.open(config.model_copy(update={"ca_bundle": None, "verify_tls": False}))
        assert unverified.get("a") == b"1"


def test_requests_go_through_the_proxy_of_the_section(account: Account) -> None:
    config = account.config("http://127.0.0.1:9", proxy=f"http://127.0.0.1:{account.port}")
    account.open(config).put("a", b"1")
    assert account.keys() == ["team/a"]


def test_a_pickled_store_finds_its_credentials_where_it_lands(account: Account) -> None:
    with account.at() as (config, _):
        store = account.open(config)
        data = pickle.dumps(store)
        for shown in (data.decode("latin1"), repr(store), repr(config), repr(s3.Endpoint(secret_key="hidden-secret"))):
            assert "hidden-secret" not in shown
        account.credentials.unlink()
        with pytest.raises(ConfigError, match=r"store.credentials_file is .*credentials, which cannot be read \(No such file"):
            pickle.loads(data).get("a")
