"""What an endpoint is asked once, and what is said and remembered of it; on moto, behind a proxy that is weak."""

from __future__ import annotations

import json
import logging
import pickle
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from foundry_ray.artifacts import lacks_of, open_store
from foundry_ray.config import StoreConfig
from foundry_ray.doctor import diagnose
from foundry_ray.errors import Conflict, StoreDenied, StoreError
from foundry_ray.testing import gateways
from foundry_ray.testing.accounts import Account
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.exchanges import Answer, Forward, Layer, Request, refusal
from foundry_ray.testing.signing import Signer

_SIGNER = Signer(access_key="someone", secret_key="hidden-secret")


def _answering(operation: str, change: Callable[[Answer], Answer]) -> Layer:
    """A gateway that changes the answers of an operation."""

    def act(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        return change(answer) if request.operation == operation else answer

    return act


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the package warned of."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("foundry_ray") and record.levelno >= logging.WARNING]


def _refusing(is_meant: Callable[[Request], bool], status: int, code: str) -> Layer:
    return lambda request, forward: refusal(status, code) if is_meant(request) else forward(request)


def test_a_whole_endpoint_lacks_nothing_and_a_probe_leaves_nothing(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    with account.at() as (config, _):
        store = account.open(config)
        assert (lacks_of(store), _said(caplog), account.keys()) == ((), [], [])
        store.put("a", b"1", if_absent=True)
    assert account.keys() == ["team/a"]


def test_a_probe_leaves_no_versions_behind(account: Account) -> None:
    client = account.client()
    client.put_bucket_versioning(Bucket="account", VersioningConfiguration={"Status": "Enabled"})
    for layers in ((), (gateways.refuses_delete_many(_SIGNER),)):
        with account.at(*layers) as (config, _):
            account.open(config)
    found = client.list_object_versions(Bucket="account")
    assert (found.get("Versions", []), found.get("DeleteMarkers", [])) == ([], [])


def test_what_was_found_is_remembered_for_a_day_and_doctor_asks_again(account: Account) -> None:
    clock = FakeClock()
    with account.at() as (config, proxy):
        writes = []
        for wait_s in (0, 80_000, 10_000):
            clock.sleep(wait_s)
            open_store(config, settings=account.settings, clock=clock)
            writes.append(proxy.count("PutObject"))
        assert writes[0] == writes[1] < writes[2]
        diagnose(account.settings, store=str(_written(config, account)))
        assert proxy.count("PutObject") > writes[2]


def _written(config: StoreConfig, account: Account) -> Path:
    """The section as a file, for `--store`."""
    path = account.credentials.with_name("store.yaml")
    path.write_text(json.dumps(config.model_dump(mode="json")))
    return path


def test_a_memory_is_private_and_without_secrets_and_of_one_way_to_ask(account: Account) -> None:
    with account.at() as (config, proxy):
        account.open(config)
        [path] = (account.settings.home / "probes").iterdir()
        assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
        assert not re.search("someone|hidden-secret", path.read_text())
        before = proxy.count("PutObject")
        account.open(config.model_copy(update={"tags": {"team": "a"}}))
        assert proxy.count("PutObject") > before


def test_all_that_is_missing_is_one_warning(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    weak = [gateways.ignores_create_only(_SIGNER), gateways.refuses_delete_many(_SIGNER), gateways.lists_in_one_page(_SIGNER)]
    with account.at(*weak) as (config, _):
        store = account.open(config)
        [said] = _said(caplog)
        assert re.search(r"^s3://account/team lacks: create-only writes.*single_writer: true.*; DeleteObjects.*one by one.*in pages", said)
        store.put("a", b"1")
        store.put("b", b"2")
        store.delete("a", "b")
        assert account.keys() == []


def test_without_create_only_writes_only_a_single_writer_creates(account: Account) -> None:
    with account.at(gateways.ignores_create_only(_SIGNER)) as (config, _):
        store = account.open(config)
        store.put("a", b"1")
        with pytest.raises(
            StoreError, match=r"has no create-only writes, and b must.*promotion, resume and leases.*Hint: set `store.single_writer: true`"
        ):
            store.put("b", b"1", if_absent=True)
        alone = account.open(config.model_copy(update={"single_writer": True}))
        alone.put("b", b"1", if_absent=True)
        with pytest.raises(Conflict, match="b exists already"):
            alone.put("b", b"2", if_absent=True)
        assert alone.get("b") == b"1"


@pytest.mark.parametrize("gateway", [gateways.refuses_trailers, gateways.loses_chunked_bodies])
def test_checksums_that_a_gateway_cannot_take_are_left_out(account: Account, gateway: Callable[[Signer], Layer]) -> None:
    with account.at(gateway(_SIGNER), tls=True) as (config, proxy):
        [lack] = lacks_of(account.open(config))
        assert lack.text.startswith("checksums in requests")
        before = proxy.count()
        store = pickle.loads(pickle.dumps(account.open(config)))
        store.put("a", b"12345")
        assert (store.get("a"), proxy.count() - before) == (b"12345", 3)
    with (
        account.at(gateways.refuses_trailers(_SIGNER), tls=True, checksums="always") as (config, _),
        pytest.raises(StoreError, match=r"refuses requests with checksums.*Hint: set `store.checksums: auto`"),
    ):
        account.open(config)


def test_read_only_credentials_open_a_store_and_read_until_they_may_write(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    is_forbidden = False

    def guarded(request: Request, forward: Forward) -> Answer:
        return refusal(403, "AccessDenied") if is_forbidden and request.method in ("PUT", "POST", "DELETE") else forward(request)

    with account.at(guarded) as (config, _):
        account.client().put_object(Bucket="account", Key="team/a", Body=b"12345")
        is_forbidden = True
        store = account.open(config)
        assert _said(caplog) == ["s3://account/team lacks: the right to write (it is open for reading; what writes is refused)."]
        assert (store.get("a"), [info.key for info in store.list("")]) == (b"12345", ["a"])
        with pytest.raises(StoreDenied, match="refused: it answered AccessDenied to write b"):
            store.put("b", b"1")
        is_forbidden = False
        assert lacks_of(account.open(config)) == ()


def test_what_needs_no_mending_is_warned_of_when_it_is_found_and_not_again(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    weak = (gateways.ignores_create_only(_SIGNER), gateways.refuses_delete_many(_SIGNER))
    with account.at(*weak) as (config, _):
        account.open(config)
        caplog.clear()
        account.open(config)
        [said] = _said(caplog)
        assert "create-only writes" in said
        assert "DeleteObjects" not in said
        account.open(config.model_copy(update={"single_writer": True}))
        assert _said(caplog) == [said]


UNUSABLE = {
    "gives back other bytes": (
        _answering("GetObject", lambda answer: replace(answer, body=answer.body[::-1])),
        r"confirms 43 bytes and then gives back",
    ),
    "ignores ranges": (lambda request, forward: forward(request.without("range")), "ignores ranges"),
    "stops after a page": (
        _answering("ListObjectsV2", lambda answer: replace(answer, body=answer.body.replace(b">true</IsTruncated>", b">false</IsTruncated>"))),
        r"lists 3 of the 8 objects that were written 10 s ago, in 1 pages",
    ),
    "repeats a page": (gateways.forgets_where_it_was(_SIGNER), "without end"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_endpoint_that_would_lose_data_is_refused(account: Account, name: str) -> None:
    layer, said = UNUSABLE[name]
    with account.at(layer) as (config, _), pytest.raises(StoreError, match=f"s3://account/team .*{said}.*Hint: use a"):
        open_store(config, settings=account.settings, clock=FakeClock())
    assert account.keys() == []
    assert not (account.settings.home / "probes").exists()


def test_a_listing_that_lags_is_waited_for_and_said(account: Account) -> None:
    looks: list[int] = []

    def lag(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        if request.operation != "ListObjectsV2" or "probe" not in request.target:
            return answer
        looks.append(1)
        return replace(answer, body=b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>") if len(looks) < 3 else answer

    with account.at(lag) as (config, _):
        store = open_store(config, settings=account.settings, clock=FakeClock())
    assert [lack.text[:38] for lack in lacks_of(store)] == ["listings that show what was just writt"]


def test_a_write_that_may_not_be_deleted_is_said(account: Account) -> None:
    forbidden = _refusing(lambda request: request.operation in ("DeleteObject", "DeleteObjects"), 403, "AccessDenied")
    with account.at(forbidden) as (config, _):
        assert [lack.text[:19] for lack in lacks_of(account.open(config))] == ["the right to delete"]


def test_doctor_names_what_is_missing_and_what_mends_it(account: Account) -> None:
    with account.at(gateways.ignores_create_only(_SIGNER)) as (config, _):
        [found] = [finding for finding in diagnose(account.settings, store=str(_written(config, account))) if finding.name == "store"]
        assert (found.is_ok, found.fix[:32]) == (False, "set `store.single_writer: true` ")
        assert found.detail.startswith("s3://account/team; lacks create-only writes")
