"""S3-compatible servers that are weak in one respect each: right answers, or a clear refusal; and one fault of each kind on the way.

The weakness is a layer of a proxy before the embedded server; `foundry_ray.testing.gateways` says what each does.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from foundry_ray import registry
from foundry_ray.artifacts import embedded, lacks_of, open_store
from foundry_ray.artifacts.manifests import fetch, publish
from foundry_ray.clock import SystemClock
from foundry_ray.config import Settings, StoreConfig
from foundry_ray.errors import ArtifactCorrupt, Conflict, StoreDenied, StoreError, StoreUnavailable
from foundry_ray.protocols import ArtifactStore
from foundry_ray.runlog import leases
from foundry_ray.testing import faults as ways
from foundry_ray.testing import gateways
from foundry_ray.testing.exchanges import Layer
from foundry_ray.testing.proxy import Proxy
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.samples import model
from foundry_ray.testing.signing import Signer
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
_QUICK = {"ignores_create_only", "lists_in_small_pages", "loses_chunked_bodies"}
_USABLE = [
    pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow)
    for name in sorted(set(gateways.GATEWAYS) - set(_UNUSABLE) - {"is_read_only"})
]
_EXCLUDED = {
    ("ignores_create_only", "test_of_racing_creators_exactly_one_wins"): "without create-only writes, `single_writer` is a promise not to race",
}
_BIG = b"0123456789abcdef" * (17 << 16)

Shaky = tuple[ArtifactStore, ways.Faults, Proxy]


@dataclass(frozen=True)
class Server:
    """The embedded server behind all proxies, and what its users need."""

    settings: Settings
    port: int
    signer: Signer
    credentials: Path
    certificate: Path
    tls: ssl.SSLContext

    def config(self, proxy: Proxy, folder: str, **options: object) -> StoreConfig:
        trust = {"ca_bundle": self.certificate} if proxy.url.startswith("https") else {}
        known = {"uri": f"s3://{embedded.BUCKET}/{folder}", "endpoint": proxy.url, "region": "us-east-1", "credentials_file": self.credentials}
        return StoreConfig(**known, **trust, **options)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="fs", dir="/tmp") as name:
        settings, certificate = Settings(home=Path(name)), _certificate(Path(name) / "localhost.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        try:
            open_store("embedded", settings=settings)
            signer, credentials = _account(settings)
            yield Server(settings, embedded.serve(settings).port, signer, credentials, certificate, tls)
        finally:
            embedded.stop(settings)


def _account(settings: Settings) -> tuple[Signer, Path]:
    """The account of the embedded server, for gateways and as a file for users."""
    secrets = json.loads((settings.home / "store" / "state.json").read_text())
    path = settings.home / "credentials"
    path.touch(mode=0o600)
    path.write_text(f"[default]\naws_access_key_id={secrets['access_key']}\naws_secret_access_key={secrets['secret_key']}\n")
    return Signer(access_key=secrets["access_key"], secret_key=secrets["secret_key"]), path


def _certificate(path: Path) -> Path:
    """A certificate of localhost that signs itself, with its key, in one file."""
    x509 = pytest.importorskip("cryptography.x509", reason="cryptography, which makes certificates, is not installed")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(hours=1), now + timedelta(days=1))
    built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + key.private_bytes(*form))
    return path


@contextmanager
def _gateway(server: Server, name: str, *more: Layer) -> Iterator[Proxy]:
    tls = server.tls if name in _OVER_HTTPS else None
    with Proxy(server.port, *more, gateways.GATEWAYS[name](server.signer), tls=tls) as proxy:
        yield proxy


@contextmanager
def _weak(server: Server, name: str, home: Path, **options: object) -> Iterator[ArtifactStore]:
    """A store behind a weak gateway, as a user opens it."""
    options = {"single_writer": name in _NEEDS_ONE_WRITER, **options}
    with _gateway(server, name) as proxy:
        yield open_store(server.config(proxy, f"weak/{name}", **options), settings=Settings(home=home, store_retry_s=5.0))


@pytest.fixture(scope="class", params=_USABLE)
def weak(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ArtifactStore]]:
    with _weak(server, request.param, tmp_path_factory.mktemp("home")) as store:
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
def test_what_an_endpoint_lacks_is_said_once_it_is_open(name: str, server: Server, tmp_path: Path) -> None:
    with _weak(server, name, tmp_path / "home") as store:
        told = {lack.text.partition(" (")[0] for lack in lacks_of(store)}
    assert told - {"listings in key order"} == {_LACKS[name]}, "the server behind the gateway lists folder by folder"


def test_without_create_only_writes_promotion_and_resume_are_refused_and_files_are_not(server: Server, tmp_path: Path) -> None:
    with _weak(server, "ignores_create_only", tmp_path / "home", single_writer=False) as store:
        store.put("notes/a", b"1")
        assert store.get("notes/a") == b"1"
        for action in (lambda: _register(store, "refused", 1), lambda: _hold(store, "refused").__enter__()):
            with pytest.raises(StoreError, match=r"no create-only writes.*Hint: set `store\.single_writer: true`"):
                action()


@pytest.mark.parametrize("name", sorted(_UNUSABLE))
def test_a_store_that_would_lose_data_is_refused_when_it_is_opened(name: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=_UNUSABLE[name]), _weak(server, name, tmp_path / "home"):
        pass


def test_a_reader_reads_and_is_told_that_it_may_not_write(server: Server, tmp_path: Path) -> None:
    with Proxy(server.port) as proxy:
        writer = open_store(server.config(proxy, "weak/is_read_only"), settings=Settings(home=tmp_path / "writer"))
        key = publish(writer, kind="model", files={"a": b"1"}, created_at="").key
    with _weak(server, "is_read_only", tmp_path / "home") as store:
        assert fetch(store, key, tmp_path / "out")["a"].read_bytes() == b"1"
        assert [info.key for info in store.list("artifacts/")] == [key]
        for action in (lambda: store.put("a", b"1"), lambda: store.put("a", b"1", if_absent=True), lambda: store.delete(key)):
            with pytest.raises(StoreDenied, match="refused: it answered AccessDenied"):
                action()


def test_encryption_that_is_not_confirmed_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="AES256"), _weak(server, "ignores_encryption", tmp_path / "home", encryption="AES256"):
        pass


def test_tags_that_are_not_kept_are_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="tags"), _weak(server, "has_no_tags", tmp_path / "home", tags={"team": "a"}):
        pass


_WAYS = {
    "dropped before": ways.drop_before,
    "dropped after": ways.drop_after,
    "truncated": ways.truncate,
    "closed amid the body": ways.close_mid_body,
    "500": ways.refuse(500, "InternalError"),
    "503": ways.refuse(503, "SlowDown"),
}
_OPERATIONS = ["PutObject", "GetObject", "HeadObject", "DeleteObject", "DeleteObjects", "ListObjectsV2", "CompleteMultipartUpload"]
_OPERATIONS += [pytest.param(name, marks=pytest.mark.slow) for name in ("CreateMultipartUpload", "UploadPart", "ListMultipartUploads")]


@pytest.fixture(scope="module")
def shaky(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shaky]:
    """A store behind a proxy that strikes when it is told to."""
    faults = ways.Faults()
    with Proxy(server.port, faults) as proxy:
        settings = Settings(home=tmp_path_factory.mktemp("home"), store_retry_s=20.0)
        yield open_store(server.config(proxy, "shaky"), settings=settings), faults, proxy


@pytest.mark.parametrize("operation", _OPERATIONS)
def test_whatever_happens_once_on_the_way_is_outlasted(operation: str, shaky: Shaky, tmp_path: Path) -> None:
    store, faults, _ = shaky
    for number, (name, way) in enumerate(_WAYS.items()):
        faults.strike(way, operation, times=1)
        _use_everything(store, f"{operation}/{number}", tmp_path / str(number), is_big="Upload" in operation)
        faults.heal()
        assert faults.num_struck > 0, name


def _use_everything(store: ArtifactStore, folder: str, scratch: Path, *, is_big: bool) -> None:
    """One operation of each kind, with the answer that a reliable store gives."""
    data = _BIG + folder.encode() if is_big else folder.encode()
    store.put(f"{folder}/a", data)
    store.put(f"{folder}/b", b"once", if_absent=True)
    assert store.download(f"{folder}/a", scratch / "a") == hashlib.sha256(data).hexdigest()
    assert store.get(f"{folder}/b") == b"once"
    info = store.stat(f"{folder}/a")
    assert info is not None
    assert info.size_bytes == len(data)
    assert [info.key for info in store.list(f"{folder}/")] == [f"{folder}/a", f"{folder}/b"]
    store.delete(f"{folder}/a", f"{folder}/b")
    assert list(store.list(f"{folder}/")) == []
    store.delete(f"{folder}/a")


@pytest.mark.parametrize("way", [ways.flip_upload, ways.tear_upload], ids=lambda way: way.__name__)
@pytest.mark.parametrize("is_big", [False, True], ids=["whole", "in parts"])
def test_what_is_damaged_on_its_way_up_is_sent_again(way: Layer, is_big: bool, shaky: Shaky) -> None:
    store, faults, _ = shaky
    data = _BIG if is_big else b"0123456789"
    before = faults.num_struck
    faults.strike(way, "PutObject", "UploadPart", times=1)
    store.put(f"damaged/{way.__name__}", data)
    assert (store.get(f"damaged/{way.__name__}") == data, faults.num_struck - before) == (True, 1)


@pytest.mark.parametrize("way", [ways.flip_download, ways.truncate, ways.close_mid_body], ids=lambda way: way.__name__)
def test_what_is_damaged_on_its_way_down_is_read_again(way: Layer, shaky: Shaky, tmp_path: Path) -> None:
    store, faults, _ = shaky
    small = {f"{way.__name__}/{number}": b"%d" % number * 100 for number in range(20)}
    key = publish(store, kind="model", files={**small, "big": _BIG + way.__name__.encode()}, created_at="").key
    before = faults.num_struck
    faults.strike(way, "GetObject", keys="artifacts/", times=1)
    faults.strike(way, "GetObject", keys="blobs/", times=1)
    paths = fetch(store, key, tmp_path / "out")
    assert {name: path.read_bytes() for name, path in paths.items() if name != "big"} == small
    assert paths["big"].read_bytes() == _BIG + way.__name__.encode()
    assert faults.num_struck - before == 2


def test_what_arrives_damaged_every_time_is_refused(shaky: Shaky, tmp_path: Path) -> None:
    store, faults, _ = shaky
    key = publish(store, kind="model", files={"big": _BIG + b"refused"}, created_at="").key
    faults.strike(ways.flip_download, "GetObject", keys="blobs/")
    with pytest.raises(ArtifactCorrupt, match=r"big has sha256 .*, wanted"):
        fetch(store, key, tmp_path / "out")
    faults.heal()
    assert list((tmp_path / "out").iterdir()) == []


def test_an_outage_is_met_with_patience_and_not_with_a_storm(server: Server, tmp_path: Path) -> None:
    faults = ways.Faults()
    with Proxy(server.port, faults) as proxy:
        store = open_store(server.config(proxy, "outage"), settings=Settings(home=tmp_path / "home", store_retry_s=30.0))
        store.put("a", b"1")
        before = len(proxy.seen)
        with ThreadPoolExecutor(1) as pool:
            with faults.outage():
                asked = pool.submit(store.get, "a")
                threading.Event().wait(4.0)
            assert asked.result(timeout=30) == b"1"
    times_s = [seen.at_s for seen in proxy.seen[before:]]
    # 0.2, 0.4, 0.8, 1.6 s apart, each 50 to 100 % of that, and each attempt at most two requests
    assert 4 <= len(times_s) <= 14
    assert times_s[-1] - times_s[-3] > 2 * (times_s[2] - times_s[0]) or len(times_s) < 6


def test_the_budget_of_patience_ends_with_a_clear_word(server: Server, tmp_path: Path) -> None:
    faults = ways.Faults()
    with Proxy(server.port, faults) as proxy:
        store = open_store(server.config(proxy, "outage"), settings=Settings(home=tmp_path / "home", store_retry_s=1.0))
        with faults.outage(), pytest.raises(StoreUnavailable, match=r"did not answer at .* Gave up after \d+ attempts .* FOUNDRY_STORE_RETRY_S"):
            store.get("a")
