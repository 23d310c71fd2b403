"""A network that fails once, or for a while: what a user of the store sees is the right answer, later."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foundry_ray.artifacts import open_store
from foundry_ray.artifacts.manifests import fetch, publish
from foundry_ray.config import Settings
from foundry_ray.errors import ArtifactCorrupt, StoreUnavailable
from foundry_ray.protocols import ArtifactStore
from foundry_ray.testing import faults as ways
from foundry_ray.testing.exchanges import Layer
from foundry_ray.testing.proxy import Proxy
from foundry_ray.testing.served import Served

_BIG = b"0123456789abcdef" * (17 << 16)  # goes up in parts
Shaky = tuple[ArtifactStore, ways.Faults, Proxy]
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
def shaky(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shaky]:
    """A store behind a proxy that strikes when it is told to."""
    faults = ways.Faults()
    with Proxy(server.port, faults) as proxy:
        settings = Settings(home=tmp_path_factory.mktemp("home"), store_retry_s=20.0)
        yield open_store(server.config(proxy.url, "shaky"), settings=settings), faults, proxy


@pytest.mark.parametrize("operation", _OPERATIONS)
def test_whatever_happens_once_on_the_way_is_outlasted(operation: str, shaky: Shaky, tmp_path: Path) -> None:
    store, faults, _ = shaky
    for number, (name, way) in enumerate(_WAYS.items()):
        before = faults.num_struck
        faults.strike(way, operation, times=1)
        _use_everything(store, f"{operation}/{number}", tmp_path / str(number), is_big="Upload" in operation)
        faults.heal()
        assert faults.num_struck == before + 1, name


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


def test_an_outage_is_met_with_patience_and_not_with_a_storm(server: Served, tmp_path: Path) -> None:
    faults = ways.Faults()
    with Proxy(server.port, faults) as proxy:
        store = open_store(server.config(proxy.url, "outage"), settings=Settings(home=tmp_path / "home", store_retry_s=30.0))
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


def test_the_budget_of_patience_ends_with_a_clear_word(server: Served, tmp_path: Path) -> None:
    faults = ways.Faults()
    with Proxy(server.port, faults) as proxy:
        store = open_store(server.config(proxy.url, "outage"), settings=Settings(home=tmp_path / "home", store_retry_s=1.0))
        with faults.outage(), pytest.raises(StoreUnavailable, match=r"did not answer at .* Gave up after \d+ attempts .* FOUNDRY_STORE_RETRY_S"):
            store.get("a")
