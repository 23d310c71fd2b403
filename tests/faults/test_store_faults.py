"""A store behind a bad network, with kill -9 of those who use it and of the server itself.

A client publishes, promotes and reads through a proxy, and writes down what was acknowledged. Whatever was struck, and when: what it read was
right, what was acknowledged is whole, the alias' history is a chain, and nothing half done stays behind.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from foundry_ray import registry
from foundry_ray.artifacts import abort_stale_uploads, embedded
from foundry_ray.artifacts.manifests import load_manifest
from foundry_ray.clock import SystemClock
from foundry_ray.config import LimitsConfig, RetentionConfig
from foundry_ray.housekeeping.gc import Collector
from foundry_ray.protocols import ArtifactStore
from foundry_ray.testing import store_user
from foundry_ray.testing.faults import (
    Faults,
    close_mid_body,
    drop_after,
    drop_before,
    flip_download,
    flip_upload,
    refuse,
    tear_upload,
    truncate,
)
from foundry_ray.testing.proxy import Proxy, Seen
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.served import Served, served

_UPLOADS = ("PutObject", "UploadPart")
_LONGEST_S = 60.0
Line = dict[str, Any]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`seed`: which blow falls when; `outage_s`: how long nobody answers."""
    is_all = metafunc.config.getoption("--moments") == "all"
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(50 if is_all else 3))
    if "outage_s" in metafunc.fixturenames:
        metafunc.parametrize("outage_s", [60.0 if is_all else 8.0])


@dataclass(frozen=True)
class Site:
    """An embedded server, a proxy before it, and a client that works through the proxy."""

    server: Served
    folder: Path
    faults: Faults
    proxy: Proxy
    seed: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def store(self) -> ArtifactStore:
        """The same store without the proxy."""
        return self.server.open()

    def uploads(self) -> list[str]:
        """The keys of uploads in parts that nobody finished."""
        inner = self.store.inner
        return [upload["Key"] for upload in inner.client().list_multipart_uploads(Bucket=embedded.BUCKET).get("Uploads", ())]

    def start(self, *, retry_s: float = _LONGEST_S) -> subprocess.Popen[bytes]:
        """Start the client, which goes on where it was."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FOUNDRY_"))}
        env = {
            **inherited,
            "FOUNDRY_HOME": str(self.folder / "home"),
            "FOUNDRY_STORE_RETRY_S": str(retry_s),
            "AWS_ENDPOINT_URL": self.proxy.url,
            "AWS_SHARED_CREDENTIALS_FILE": str(self.server.credentials),
            "AWS_REGION": "us-east-1",
        }
        with (self.folder / "client.log").open("ab") as log:
            command = [sys.executable, "-m", store_user.__name__, "s3://foundry", str(self.folder), str(self.seed)]
            self.processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        return self.processes[-1]

    def lines(self, *kinds: str) -> list[Line]:
        """What was acknowledged."""
        path = self.folder / "acknowledged.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in found if not kinds or line["did"] in kinds]

    def await_lines(self, number: int, process: subprocess.Popen[bytes]) -> None:
        """Wait until so many acknowledgements are there."""
        self.wait(lambda: len(self.lines()) >= number, process, what=f"{number} acknowledgements")

    def wait(self, condition: Callable[[], bool], process: subprocess.Popen[bytes], *, what: str) -> None:
        deadline_s = time.monotonic() + 2 * _LONGEST_S
        while not condition():
            said = (self.folder / "client.log").read_text()[-3000:]
            assert process.poll() is None, f"the client ended before {what}: {said}"
            assert time.monotonic() < deadline_s, f"no {what} within {2 * _LONGEST_S} s: {self.lines()[-1:]} {said}"
            time.sleep(0.01)


@contextmanager
def _site(seed: int) -> Iterator[Site]:
    faults = Faults(seed)
    with served() as server, Proxy(server.port, faults) as proxy:
        folder = server.folder / "client"
        folder.mkdir()
        site = Site(server, folder, faults, proxy, seed)
        try:
            yield site
        finally:
            for process in site.processes:
                _kill(process)


@pytest.fixture
def site() -> Iterator[Site]:
    with _site(seed=0) as site:
        yield site


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(timeout=30)


@pytest.mark.timeout(300)
def test_whatever_is_struck_nothing_acknowledged_is_lost_and_nothing_wrong_is_read(seed: int) -> None:
    chance = random.Random(f"moment {seed}")
    blow = (_kill_the_client, _kill_the_server, _bad_weather)[seed % 3]
    with _site(seed) as site:
        process = site.start()
        site.await_lines(chance.randrange(2, 16), process)
        _pass(chance.uniform(0, 0.5))
        process = blow(site, process, chance)
        site.await_lines(len(site.lines()) + 6, process)
        _pass(chance.uniform(0, 0.5))
        _kill(process)
        _check(site)


def _pass(span_s: float) -> None:
    """Let time pass: the moment of a blow is an input, not something to wait for."""
    threading.Event().wait(span_s)


def _kill_the_client(site: Site, process: subprocess.Popen[bytes], chance: random.Random) -> subprocess.Popen[bytes]:
    _kill(process)
    return site.start()


def _kill_the_server(site: Site, process: subprocess.Popen[bytes], chance: random.Random) -> subprocess.Popen[bytes]:
    state = embedded.status(site.server.settings)
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    _pass(chance.uniform(0, 1))
    assert embedded.serve(site.server.settings).port == state.port
    return process


def _bad_weather(site: Site, process: subprocess.Popen[bytes], chance: random.Random) -> subprocess.Popen[bytes]:
    """Everything that can happen on the way, for some 25 requests."""
    for action in (drop_before, drop_after, truncate, close_mid_body, refuse(500, "InternalError"), refuse(503, "SlowDown")):
        site.faults.strike(action, share=0.03)
    for action in (flip_upload, tear_upload):
        site.faults.strike(action, *_UPLOADS, share=0.05)
    site.faults.strike(flip_download, "GetObject", keys="blobs/", share=0.2)
    site.wait(lambda: site.faults.num_struck >= 25, process, what="25 faults")
    site.faults.heal()
    return process


class _Later(SystemClock):
    """A minute ahead, for what may go when it is some seconds old."""

    def now_s(self) -> float:
        return super().now_s() + 60.0


def _check(site: Site) -> None:
    """No read was wrong, everything that was acknowledged holds, and what was not leaves nothing behind."""
    assert site.lines("corrupt") == []
    assert not site.lines("refuse") or site.faults.num_struck, "what nobody damaged was refused"
    assert site.lines("publish"), "the client did nothing"
    _check_whole(site, site.lines("publish"))
    _check_chain(site)
    _check_leftovers(site)


def _check_leftovers(site: Site) -> None:
    """Collected, the store holds what is promoted, whole, and not an object more; no part of an upload stays either."""
    retention, limits, reporter = RetentionConfig(), LimitsConfig(), RecordingReporter()
    collector = Collector(store=site.store, retention=retention, grace_s=0.0, clock=SystemClock(), reporter=reporter, limits=limits)
    deadline_s = time.monotonic() + 30
    while left := _leftovers(site.store):  # what was written in the second of a collection is left to the next one
        assert time.monotonic() < deadline_s, f"collected again and again, and still there: {left}"
        collector.collect()
    promoted = {line["number"] for line in site.lines("promote")}
    _check_whole(site, [line for line in site.lines("publish") if line["number"] in promoted])
    abort_stale_uploads(site.store, 0.0, _Later())
    assert site.uploads() == []


def _leftovers(store: ArtifactStore) -> set[str]:
    """Manifests of models that no version names, and blobs that no manifest names."""
    manifests = {info.key for info in store.list("artifacts/")}
    named = {entry.model.artifact.key for entry in registry.versions(store, store_user.NAME)}
    needed = {blob.key for key in manifests for blob in load_manifest(store, key).files.values()}
    return manifests - named | {info.key for info in store.list("blobs/")} - needed


def _check_whole(site: Site, lines: list[Line]) -> None:
    for line in lines:
        assert store_user.read(site.store, line["key"], site.folder / "checked") == line["digests"], line


def _check_chain(site: Site) -> None:
    """Each move of the alias follows the one before, and each acknowledged promotion is among them, in order."""
    moves = registry.history(site.store, store_user.NAME, registry.CHAMPION)
    assert [move.number for move in moves] == list(range(1, len(moves) + 1))
    assert [move.previous for move in moves] == [None, *(move.version for move in moves[:-1])]
    promoted = [line["version"] for line in site.lines("promote")]
    assert [version for version in (move.version for move in moves) if version in promoted] == promoted


@pytest.mark.timeout(300)
def test_an_outage_delays_and_loses_nothing_and_is_no_storm(site: Site, outage_s: float) -> None:
    process = site.start(retry_s=outage_s + 30)
    site.await_lines(4, process)
    with site.faults.outage():
        before = len(site.proxy.seen)
        _pass(outage_s)
        asked = site.proxy.seen[before:]
    site.await_lines(len(site.lines()) + 6, process)
    _kill(process)
    _check(site)
    assert asked, "the client was not there"
    assert max(_by_target(asked).values()) <= 2 * _most_attempts(outage_s), "each attempt is at most two requests"


def _by_target(asked: list[Seen]) -> Counter[tuple[str, str]]:
    return Counter((seen.request.method, seen.request.target) for seen in asked)


def _most_attempts(span_s: float) -> int:
    """Attempts of one operation within a span: the first, and one after each wait, of which each may be half of its backoff."""
    attempts, passed_s = 1, 0.0
    while passed_s <= span_s:
        passed_s += 0.5 * min(5.0, 0.1 * 2.0**attempts)
        attempts += 1
    return attempts


@pytest.mark.timeout(300)
def test_an_upload_that_died_half_way_goes_on_where_it_was(site: Site) -> None:
    process = site.start()
    site.wait(lambda: any(seen.operation == "UploadPart" and seen.status == 200 for seen in tuple(site.proxy.seen)), process, what="a part")
    _kill(process)
    assert site.proxy.count("CompleteMultipartUpload") == 0, "the client was killed too late"
    kept = {seen.request.query["partNumber"] for seen in site.proxy.seen if seen.operation == "UploadPart" and seen.status == 200}
    before = len(site.proxy.seen)
    process = site.start()
    site.wait(lambda: site.proxy.count("CompleteMultipartUpload") > 0, process, what="the whole upload")
    again = {seen.request.query["partNumber"] for seen in site.proxy.seen[before:] if seen.operation == "UploadPart"}
    assert (kept & again, kept | again) == (set(), {"1", "2", "3"})
