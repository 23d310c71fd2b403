"""Big objects through a network that breaks: uploads go on where they were, downloads take one version whole, nothing is lost or mixed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from foundry_ray.artifacts import abort_stale_uploads, embedded, s3
from foundry_ray.artifacts.s3.client import PART_BYTES
from foundry_ray.config import Settings
from foundry_ray.errors import StoreError, StoreUnavailable
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.exchanges import Answer, Forward, Layer, Request, refusal
from foundry_ray.testing.faults import Faults, close_mid_body, drop_after, refuse, truncate
from foundry_ray.testing.proxy import Proxy

_NUM_PARTS = 3
_SIZE = (_NUM_PARTS - 1) * PART_BYTES + 12_345
_DAY_S = 86_400.0


@pytest.fixture(scope="module")
def server() -> Iterator[s3.S3Store]:
    """A store on a server of its own, reached directly."""
    with tempfile.TemporaryDirectory(prefix="ft", dir="/tmp") as folder:
        settings = Settings(home=Path(folder))
        embedded.serve(settings)
        store = embedded.open_embedded(settings)
        store.open_bucket(create=True)
        yield store
        embedded.stop(settings)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def proxy(server: s3.S3Store, faults: Faults) -> Iterator[Proxy]:
    port = urlsplit(server.endpoint().url).port
    with Proxy(port, faults) as running:
        yield running


@pytest.fixture
def store(server: s3.S3Store, proxy: Proxy, request: pytest.FixtureRequest) -> s3.S3Store:
    """The same bucket through the proxy, under a prefix of the test's own, without the patience of `Retrying`."""
    endpoint = replace(server.endpoint(), url=proxy.url)
    prefix = f"{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}/"
    return s3.S3Store(uri="s3://far/away", bucket=embedded.BUCKET, prefix=prefix, connect=lambda: endpoint, hint="wait.")


@pytest.fixture(scope="module")
def data() -> bytes:
    return os.urandom(_SIZE)


@pytest.fixture(scope="module")
def other() -> bytes:
    return os.urandom(_SIZE)


def _on_part(number: int, action: Layer) -> Layer:
    """The action, for one part of an upload only."""

    def act(request: Request, forward: Forward) -> Answer:
        return (action if request.query.get("partNumber") == str(number) else _let_through)(request, forward)

    return act


def _let_through(request: Request, forward: Forward) -> Answer:
    return forward(request)


def _before(action: Callable[[], object], request: Request, forward: Forward) -> Answer:
    action()
    return forward(request)


def _after(action: Callable[[], object], request: Request, forward: Forward) -> Answer:
    answer = forward(request)
    action()
    return answer


def _break_off(store: s3.S3Store, faults: Faults, data: bytes) -> None:
    """Leave an upload of `big` without its last part."""
    faults.strike(_on_part(_NUM_PARTS, refuse(503, "SlowDown")), "UploadPart")
    with pytest.raises(StoreUnavailable, match="answered SlowDown when asked to write big"):
        store.put("big", data)
    faults.heal()


def _num_unfinished(store: s3.S3Store) -> int:
    bucket, prefix = store.location
    return len(store.client().list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", ()))


def _parts_sent(proxy: Proxy) -> int:
    return sum(one.operation == "UploadPart" and one.status == 200 for one in proxy.seen)


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, _SIZE])
def test_objects_of_any_size_come_back_as_they_went(size: int, store: s3.S3Store, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(data[:size])
    store.put("big", tmp_path / "in")
    assert store.download("big", tmp_path / "out") == hashlib.sha256(data[:size]).hexdigest()
    assert (tmp_path / "out").read_bytes() == data[:size]


def test_an_upload_that_broke_off_sends_only_what_is_missing(store: s3.S3Store, faults: Faults, proxy: Proxy, data: bytes) -> None:
    _break_off(store, faults, data)
    assert _parts_sent(proxy) == _NUM_PARTS - 1
    store.put("big", data)
    assert _parts_sent(proxy) == _NUM_PARTS
    assert store.get("big") == data
    assert _num_unfinished(store) == 0


def test_parts_of_other_bytes_are_not_taken_up(store: s3.S3Store, faults: Faults, proxy: Proxy, data: bytes, other: bytes) -> None:
    _break_off(store, faults, other)
    store.put("big", data)
    assert store.get("big") == data
    assert _parts_sent(proxy) == (_NUM_PARTS - 1) + _NUM_PARTS


def test_two_who_go_on_with_one_upload_both_succeed(store: s3.S3Store, faults: Faults, data: bytes) -> None:
    _break_off(store, faults, data)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(store.put, "big", data) for _ in range(2)]:
            done.result()
    assert store.get("big") == data
    assert _num_unfinished(store) == 0


def test_a_lost_answer_to_the_last_request_is_no_failure(store: s3.S3Store, faults: Faults, proxy: Proxy, data: bytes) -> None:
    faults.strike(drop_after, "CompleteMultipartUpload", times=1)
    store.put("big", data)
    assert store.get("big") == data
    assert _parts_sent(proxy) == _NUM_PARTS


def test_an_upload_that_somebody_else_completed_is_done(store: s3.S3Store, faults: Faults, proxy: Proxy, data: bytes) -> None:
    def complete_elsewhere(request: Request, forward: Forward) -> Answer:
        forward(request)
        return refusal(404, "NoSuchUpload")

    faults.strike(complete_elsewhere, "CompleteMultipartUpload", times=1)
    store.put("big", data)
    assert store.get("big") == data
    assert _parts_sent(proxy) == _NUM_PARTS


def test_an_upload_that_was_taken_away_starts_afresh_and_an_older_object_is_not_taken_for_it(
    store: s3.S3Store, faults: Faults, data: bytes, other: bytes
) -> None:
    store.put("big", other)
    faults.strike(refuse(404, "NoSuchUpload"), "CompleteMultipartUpload", times=1)
    store.put("big", data)
    assert store.get("big") == data


def test_an_upload_that_is_taken_away_every_time_fails(store: s3.S3Store, faults: Faults, data: bytes) -> None:
    faults.strike(refuse(404, "NoSuchUpload"), "CompleteMultipartUpload")
    with pytest.raises(StoreError, match="answered NoSuchUpload"):
        store.put("big", data)
    assert store.stat("big") is None


def test_a_server_that_lists_no_uploads_is_written_to_all_the_same(store: s3.S3Store, faults: Faults, data: bytes) -> None:
    faults.strike(refuse(501, "NotImplemented"), "ListMultipartUploads")
    store.put("big", data)
    assert store.get("big") == data
    assert abort_stale_uploads(store, 0, FakeClock()) == 0


def test_abandoned_uploads_are_collected_and_young_ones_stay(store: s3.S3Store, faults: Faults, data: bytes) -> None:
    _break_off(store, faults, data)
    begun_s = store.client().list_multipart_uploads(Bucket=embedded.BUCKET, Prefix=store.location[1])["Uploads"][0]["Initiated"].timestamp()
    assert abort_stale_uploads(store, _DAY_S, FakeClock(begun_s + 1)) == 0
    assert abort_stale_uploads(store, _DAY_S, FakeClock(begun_s + _DAY_S + 1)) == 1
    assert _num_unfinished(store) == 0


def test_an_upload_asks_for_tags_when_it_begins(store: s3.S3Store, faults: Faults, data: bytes) -> None:
    asked: list[str | None] = []
    bucket, prefix = store.location
    faults.strike(lambda request, forward: _before(lambda: asked.append(request.header("x-amz-tagging")), request, forward), "CreateMultipartUpload")
    s3.store.upload(store.client(), {"Bucket": bucket, "Key": f"{prefix}tagged"}, data, extra={"Tagging": "team=vision"})
    assert asked == ["team=vision"]


def test_a_source_that_shrinks_on_the_way_is_an_error(store: s3.S3Store, faults: Faults, data: bytes, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(data)
    faults.strike(partial(_before, partial(os.truncate, source, PART_BYTES)), "CreateMultipartUpload")
    with pytest.raises(StoreError, match=r"big shrank while it was uploaded\. Hint: upload it again"):
        store.put("big", source)
    assert store.stat("big") is None


@pytest.mark.parametrize("fault", [close_mid_body, truncate])
def test_bodies_that_end_early_are_continued(fault: Layer, store: s3.S3Store, faults: Faults, data: bytes, tmp_path: Path) -> None:
    store.put("big", data)
    faults.strike(fault, "GetObject", times=4)
    assert store.download("big", tmp_path / "out") == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "out").read_bytes() == data


def test_bodies_that_always_end_early_are_said_after_a_few_attempts(
    store: s3.S3Store, faults: Faults, proxy: Proxy, data: bytes, tmp_path: Path
) -> None:
    store.put("big", data[:1_000_000])
    faults.strike(close_mid_body, "GetObject")
    with pytest.raises(StoreUnavailable, match=r"s3://far/away .*read big"):
        store.download("big", tmp_path / "out")
    assert proxy.count("GetObject") == 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [_SIZE, _SIZE - 1, 5])
def test_an_object_that_is_replaced_in_the_middle_is_read_again(
    size: int, store: s3.S3Store, server: s3.S3Store, faults: Faults, data: bytes, other: bytes, tmp_path: Path
) -> None:
    store.put("big", other)
    faults.strike(partial(_after, partial(server.put, f"{store.location[1]}big", data[:size])), "GetObject", times=1)
    assert store.download("big", tmp_path / "out") == hashlib.sha256(data[:size]).hexdigest()
    assert (tmp_path / "out").read_bytes() == data[:size]


def test_an_object_that_is_replaced_all_the_time_is_said_to_be(
    store: s3.S3Store, server: s3.S3Store, faults: Faults, data: bytes, tmp_path: Path
) -> None:
    store.put("big", data)
    faults.strike(lambda request, forward: _after(partial(server.put, request.key, os.urandom(PART_BYTES + 1)), request, forward), "GetObject")
    with pytest.raises(StoreUnavailable, match="big was replaced 5 times while it was read"):
        store.download("big", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_knows_no_ranges_is_read_whole(store: s3.S3Store, faults: Faults, data: bytes, tmp_path: Path) -> None:
    def ignore_range(request: Request, forward: Forward) -> Answer:
        return replace(forward(request).without("content-range"), status=200)

    store.put("big", data[:100_000])
    faults.strike(ignore_range, "GetObject")
    assert store.download("big", tmp_path / "out") == hashlib.sha256(data[:100_000]).hexdigest()
    assert (tmp_path / "out").read_bytes() == data[:100_000]
