"""S3-compatible servers that are weak in one respect each: right answers, or a clear refusal.

The weakness is a layer of a proxy before the embedded server; `foundry_ray.testing.gateways` says what each does.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from foundry_ray import registry
from foundry_ray.artifacts import lacks_of, open_store
from foundry_ray.artifacts.manifests import fetch, publish
from foundry_ray.clock import SystemClock
from foundry_ray.config import Settings
from foundry_ray.errors import Conflict, StoreDenied, StoreError
from foundry_ray.protocols import ArtifactStore
from foundry_ray.runlog import leases
from foundry_ray.testing import gateways
from foundry_ray.testing.proxy import Proxy
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.samples import model
from foundry_ray.testing.served import Served
from foundry_ray.testing.store_contract import StoreContract

_NEEDS_ONE_WRITER = ("ignores_create_only",)
_UNUSABLE = {
    "forgets_where_it_was": r"lists .* without end|lists \d+ of the \d+ objects",
}
_LACKS = {
    "ignores_create_only": "create-only writes, `If-None-Match: *`",
    "is_read_only": "the right to write",
    "lists_in_one_page": "listings in pages",
    "loses_chunked_bodies": "checksums in requests",
    "refuses_delete_many": "DeleteObjects",
    "refuses_trailers": "checksums in requests",
}
_OVER_HTTPS = ("refuses_trailers", "loses_chunked_bodies")  # over http, checksums travel in headers
_QUICK = {"ignores_create_only", "loses_chunked_bodies"}
_USABLE = [
    pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow)
    for name in sorted(set(gateways.GATEWAYS) - set(_UNUSABLE) - {"is_read_only"})
]
_EXCLUDED = {
    ("ignores_create_only", "test_of_racing_creators_exactly_one_wins"): "without create-only writes, `single_writer` is a promise not to race",
}
_BIG = b"0123456789abcdef" * (17 << 16)


class OpenWeak(Protocol):
    """Opens a store behind a weak gateway as a user does, with a FOUNDRY_HOME and keys of the store's section."""

    def __call__(self, name: str, home: Path, **options: object) -> AbstractContextManager[ArtifactStore]: ...


@pytest.fixture(scope="session")
def open_weak(server: Served, certificate: Path) -> OpenWeak:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)

    @contextmanager
    def opened(name: str, home: Path, **options: object) -> Iterator[ArtifactStore]:
        known = {"single_writer": name in _NEEDS_ONE_WRITER, "ca_bundle": certificate if name in _OVER_HTTPS else None}
        with Proxy(server.port, gateways.GATEWAYS[name](server.signer), tls=tls if name in _OVER_HTTPS else None) as proxy:
            config = server.config(proxy.url, f"weak/{name}", **(known | options))
            yield open_store(config, settings=Settings(home=home, store_retry_s=5.0))

    return opened


@pytest.fixture(scope="class", params=_USABLE)
def weak(request: pytest.FixtureRequest, open_weak: OpenWeak, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ArtifactStore]]:
    with open_weak(request.param, tmp_path_factory.mktemp("home")) as store:
        yield request.param, store


class TestWeakStores(StoreContract):
    """Every weak gateway but those that are refused when they are opened."""

    NUM_LISTED = 25  # small pages have 7

    @pytest.fixture
    def store(self, weak: tuple[str, ArtifactStore], request: pytest.FixtureRequest) -> ArtifactStore:
        name, store = weak
        reason = _EXCLUDED.get((name, request.function.__name__))
        if reason is not None:
            pytest.skip(reason)
        return store

    def test_artifacts_are_published_and_fetched(self, store: ArtifactStore, folder: str, tmp_path: Path) -> None:
        files = {"small": folder.encode(), "empty": b"", "deep/big": _BIG}
        paths = fetch(store, publish(store, kind="model", files=files, created_at="").key, tmp_path / "out")
        assert {name: path.read_bytes() for name, path in paths.items()} == files

    def test_versions_are_promoted(self, store: ArtifactStore, folder: str) -> None:
        name = folder.rpartition("/")[2]
        for number in (1, 2):
            _register(store, name, number)
        assert registry.resolve(store, name).version == 2
        assert [(move.version, move.previous) for move in registry.history(store, name, registry.CHAMPION)] == [(1, None), (2, 1)]

    def test_a_lease_has_one_holder(self, store: ArtifactStore, folder: str) -> None:
        key = folder.rpartition("/")[2]
        with _hold(store, key) as lease:
            assert lease is not None
            with pytest.raises(Conflict, match=r"still works on"), _hold(store, key):
                pass
        with _hold(store, key) as lease:
            assert lease is not None
            assert lease.fence == 2


def _register(store: ArtifactStore, name: str, number: int) -> None:
    student = replace(model(), artifact=replace(model().artifact, key=f"artifacts/model/{name}-{number}.json", sha256=f"{name}-{number}"))
    registry.register(store, name=name, model=student, report_key=f"reports/{number}", passed=True, run_id="run", clock=SystemClock())


def _hold(store: ArtifactStore, key: str) -> object:
    options = {"run_id": "run", "ttl_s": 30.0, "wait_s": 0.0, "clock": SystemClock(), "reporter": RecordingReporter()}
    return leases.hold(store, key, **options, is_done=lambda: False)


@pytest.mark.parametrize("name", sorted(_LACKS))
def test_what_an_endpoint_lacks_is_said_once_it_is_open(name: str, open_weak: OpenWeak, tmp_path: Path) -> None:
    with open_weak(name, tmp_path / "home") as store:
        told = {lack.text.partition(" (")[0] for lack in lacks_of(store)}
    assert told - {"listings in key order"} == {_LACKS[name]}, "the server behind the gateway lists folder by folder"


def test_without_create_only_writes_promotion_and_resume_are_refused_and_files_are_not(open_weak: OpenWeak, tmp_path: Path) -> None:
    with open_weak("ignores_create_only", tmp_path / "home", single_writer=False) as store:
        store.put("notes/a", b"1")
        assert store.get("notes/a") == b"1"
        for action in (lambda: _register(store, "refused", 1), lambda: _hold(store, "refused").__enter__()):
            with pytest.raises(StoreError, match=r"no create-only writes.*Hint: set `store\.single_writer: true`"):
                action()


@pytest.mark.parametrize("name", sorted(_UNUSABLE))
def test_a_store_that_would_lose_data_is_refused_when_it_is_opened(name: str, open_weak: OpenWeak, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=_UNUSABLE[name]), open_weak(name, tmp_path / "home"):
        pass


def test_a_reader_reads_and_is_told_that_it_may_not_write(open_weak: OpenWeak, server: Served, tmp_path: Path) -> None:
    writer = open_store(server.config(f"http://127.0.0.1:{server.port}", "weak/is_read_only"), settings=Settings(home=tmp_path / "writer"))
    key = publish(writer, kind="model", files={"a": b"1"}, created_at="").key
    with open_weak("is_read_only", tmp_path / "home") as store:
        assert fetch(store, key, tmp_path / "out")["a"].read_bytes() == b"1"
        assert [info.key for info in store.list("artifacts/")] == [key]
        for action in (lambda: store.put("a", b"1"), lambda: store.put("a", b"1", if_absent=True), lambda: store.delete(key)):
            with pytest.raises(StoreDenied, match="refused: it answered AccessDenied"):
                action()


def test_encryption_that_is_not_confirmed_is_refused(open_weak: OpenWeak, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="AES256"), open_weak("ignores_encryption", tmp_path / "home", encryption="AES256"):
        pass


def test_tags_that_are_not_kept_are_refused(open_weak: OpenWeak, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="tags"), open_weak("has_no_tags", tmp_path / "home", tags={"team": "a"}):
        pass
