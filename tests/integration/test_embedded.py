"""The embedded server against the other users of its machine, against earlier versions, and on disks that refuse."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from foundry_ray.artifacts import _weed, embedded, open_store
from foundry_ray.artifacts._certificates import AUTHORITY, CERTIFICATE, KEY, ensure_certificates
from foundry_ray.artifacts._secrets import read_secrets, write_secrets
from foundry_ray.config import Settings
from foundry_ray.errors import StoreDenied, StoreUnavailable
from foundry_ray.protocols import ArtifactStore

MASTER, VOLUME, FILER, ADMIN = range(1, 5)  # above the S3 port
GRPC = 10_000


@pytest.fixture(scope="module")
def store(home: Settings) -> ArtifactStore:
    return open_store("embedded", settings=home)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Settings]:
    """A home for one test, whose server ends with it."""
    settings = Settings(home=tmp_path / "home", store_retry_s=20.0)
    yield settings
    embedded.stop(settings)


def _status_of(port: int, method: str, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body=b"x" if method in ("PUT", "POST") else None)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("part", "path"),
    [
        (0, "/"),
        (0, "/foundry"),
        (0, "/foundry/guarded"),
        (MASTER, "/dir/assign"),
        (MASTER, "/dir/lookup?volumeId=1&fileId=1,0163&read=yes"),
        (MASTER, "/dir/status"),
        (MASTER, "/col/delete?collection=foundry"),
        (MASTER, "/vol/grow?count=1"),
        (MASTER, "/submit"),
        (VOLUME, "/1,0163"),
        (VOLUME, "/ui/index.html"),
        (FILER, "/"),
        (FILER, "/buckets/foundry/guarded"),
        (ADMIN, "/"),
    ],
)
def test_no_port_serves_a_stranger(store: ArtifactStore, home: Settings, part: int, path: str) -> None:
    store.put("guarded", b"1")
    state = embedded.serve(home)
    answers = {method: _status_of(state.port + part, method, path) for method in ("GET", "PUT", "POST", "DELETE")}
    assert all(status in (400, 401, 403, 404, 405) for status in answers.values()), answers
    assert store.get("guarded") == b"1"


def _ask(port: int, *, authority: bytes = b"", key: bytes | None = None, certificate: bytes | None = None) -> str:
    """How the server answers a call that no server knows: UNIMPLEMENTED where it talks to us at all."""
    address, options = f"127.0.0.1:{port}", (("grpc.ssl_target_name_override", "foundry-store"),)
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    channel = grpc.secure_channel(address, credentials, options) if authority else grpc.insecure_channel(address)
    with channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/no.Such/Method")(b"", timeout=5)
    return str(caught.value.code().name)


@pytest.mark.parametrize("part", [0, MASTER, VOLUME, FILER, ADMIN])
def test_no_inner_port_talks_to_who_has_no_certificate_of_ours(store: ArtifactStore, home: Settings, part: int, tmp_path: Path) -> None:
    port = embedded.serve(home).port + part + GRPC
    ours, others = home.home / "store" / "tls", ensure_certificates(tmp_path / "tls")
    authority = (ours / AUTHORITY).read_bytes()
    assert _ask(port) == "UNAVAILABLE"
    assert _ask(port, authority=authority) == "UNAVAILABLE"
    assert _ask(port, authority=authority, key=(others / KEY).read_bytes(), certificate=(others / CERTIFICATE).read_bytes()) == "UNAVAILABLE"
    assert _ask(port, authority=authority, key=(ours / KEY).read_bytes(), certificate=(ours / CERTIFICATE).read_bytes()) == "UNIMPLEMENTED"


def _open_files(pid: int) -> Iterator[str]:
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield str(path.readlink())


def test_it_listens_on_loopback_only_and_reports_nothing(store: ArtifactStore, home: Settings) -> None:
    pid = embedded.serve(home).pid
    inodes = {target[8:-1] for target in _open_files(pid) if target.startswith("socket:")}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]]
    assert {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes} == {"0100007F"}
    assert "-master.telemetry=false" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def test_the_sockets_in_tmp_are_its_owners(store: ArtifactStore, home: Settings) -> None:
    port = embedded.serve(home).port
    sockets = [path for inner in (port, port + GRPC) for path in Path("/tmp").glob(f"seaweedfs-*-{inner}.sock")]
    assert sockets
    assert {path.stat().st_mode & 0o077 for path in sockets} == {0}


def test_a_home_of_an_earlier_version_gets_its_locks_and_keeps_its_data(own: Settings) -> None:
    folder = own.home / "store"
    open_store("embedded", settings=own).put("a", b"1")
    before = read_secrets(folder)
    assert before is not None
    write_secrets(folder, replace(before, is_locked=False))
    first = embedded.status(own)
    assert first is not None
    assert not first.is_locked
    second = embedded.serve(own)
    assert (second.is_locked, second.port, second.pid != first.pid) == (True, first.port, True)
    assert open_store("embedded", settings=own).get("a") == b"1"
    assert read_secrets(folder) == before


def test_damaged_certificates_are_made_anew(own: Settings) -> None:
    folder = own.home / "store" / "tls"
    open_store("embedded", settings=own).put("a", b"1")
    embedded.stop(own)
    (folder / KEY).write_text("torn")
    assert open_store("embedded", settings=own).get("a") == b"1"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_server_that_cannot_be_locked_does_not_stay(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_weed, "_PARTS", ("MASTER", "VOLUME", "S3", "CLIENT"))
    with pytest.raises(StoreUnavailable, match=r"not ready, with its inner ports locked, in 6 s\. Hint: read the end of .*weed\.log"):
        embedded.serve(own, timeout_s=6.0)
    assert embedded.status(own) is None


def test_files_of_a_dead_server_are_no_obstacle(own: Settings) -> None:
    folder = own.home / "store"
    folder.mkdir(parents=True)
    for name in ("control.lock", "alive.lock", ".state.json.1"):
        (folder / name).touch()
    (folder / "pid").write_text("1")
    assert embedded.serve(own).pid != 1


def test_a_server_that_only_dies_is_told_from_a_slow_one(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_weed, "command", lambda **_: [str(_weed.binary()), "mini", "-no-such-flag"])
    with pytest.raises(StoreUnavailable, match=r"ended (each of the 3 times that it was started|at once)"):
        embedded.serve(own)


@pytest.mark.parametrize("home", ["/sys/foundry", "/dev/null/foundry", "/dev/null"])
def test_a_home_that_cannot_be_written_is_refused_with_the_way_out(home: str) -> None:
    with pytest.raises(StoreDenied, match=rf"cannot be kept in {home}/store: .*Hint: set FOUNDRY_HOME to a folder that you can write") as caught:
        embedded.serve(Settings(home=Path(home)))
    assert caught.value.exit_code == 4


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from foundry_ray.artifacts import embedded; from foundry_ray.config import Settings;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); embedded.serve(Settings(home=Path(sys.argv[1])))"
    )
    command = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert "StoreUnavailable: the embedded store could not use" in command.stderr
    assert "File too large. Hint: free some space there" in command.stderr


def test_status_says_what_the_server_takes(store: ArtifactStore, home: Settings) -> None:
    store.put("large", os.urandom(4 << 20))
    foundry = [sys.executable, "-m", "foundry_ray.cli", "store", "status"]
    environment = {**os.environ, "FOUNDRY_HOME": str(home.home)}
    told = json.loads(subprocess.run([*foundry, "--json"], env=environment, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert told["store"]["is_locked"]
    assert (4 << 20) < told["usage"]["data_bytes"] < (64 << 20)
    assert (20 << 20) < told["usage"]["memory_bytes"] < (1 << 30)
    shown = subprocess.run(foundry, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "memory" in shown
    assert "free)" in shown
