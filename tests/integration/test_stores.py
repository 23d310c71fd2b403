"""The contract on real servers, and what only real servers can show: credentials, crashes, ports, silence."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foundry_ray.artifacts import embedded, open_store, s3
from foundry_ray.artifacts.manifests import fetch, publish
from foundry_ray.config import Settings
from foundry_ray.errors import ArtifactCorrupt, ConfigError, Conflict, StoreDenied, StoreUnavailable
from foundry_ray.protocols import ArtifactStore
from foundry_ray.testing.store_contract import StoreContract


@pytest.fixture(scope="module")
def embedded_store(home: Settings) -> ArtifactStore:
    return open_store("embedded", settings=home)


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed").ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(moto_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """The environment of a user with an S3 account at the moto server, and the bucket `bucket` in it."""
    values = {
        "AWS_ENDPOINT_URL": moto_url,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "hidden-secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    _forget_clients()
    s3.S3Store(uri="s3://bucket", bucket="bucket", prefix="", connect=s3.Endpoint, hint="").open_bucket(create=True)
    yield monkeypatch
    _forget_clients()


def _forget_clients() -> None:
    s3.client._clients.clear()


class TestEmbedded(StoreContract):
    @pytest.fixture
    def store(self, embedded_store: ArtifactStore) -> ArtifactStore:
        return embedded_store


class TestMoto(StoreContract):
    """Not asked of moto: wrong credentials (it accepts any) and a restart (it forgets everything)."""

    @pytest.fixture
    def store(self, aws: pytest.MonkeyPatch, settings: Settings) -> ArtifactStore:
        return open_store("s3://bucket/team/project", settings=settings)


def test_objects_lie_under_the_prefix_of_the_uri(aws: pytest.MonkeyPatch, settings: Settings) -> None:
    open_store("s3://bucket/deep/er", settings=settings).put("a/b", b"1")
    assert [info.key for info in open_store("s3://bucket", settings=settings).list("deep/")] == ["deep/er/a/b"]


def test_a_missing_bucket_is_named_with_the_command_that_makes_it(aws: pytest.MonkeyPatch, settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"there is no bucket 'nowhere'\. Hint: `aws s3 mb s3://nowhere`"):
        open_store("s3://nowhere/x", settings=settings)


def test_missing_credentials_are_denied(aws: pytest.MonkeyPatch, settings: Settings) -> None:
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    _forget_clients()
    with pytest.raises(StoreDenied, match=r"no usable credentials.*Hint: check AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket", settings=settings)


def test_a_gateway_that_drops_bodies_is_noticed(aws: pytest.MonkeyPatch) -> None:
    store = s3.S3Store(uri="s3://bucket", bucket="bucket", prefix="", connect=s3.Endpoint, hint="")
    store.client().meta.events.register("before-call.s3.PutObject", lambda params, **_: params.update(body=b""))
    with pytest.raises(StoreUnavailable, match="confirmed torn and then holds 0 of its 5 bytes") as caught:
        store.put("torn", b"12345")
    assert caught.value.retryable
    assert store.stat("torn") is None


@pytest.mark.timeout(30)
def test_an_unreachable_server_is_said_within_seconds(aws: pytest.MonkeyPatch, settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        aws.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        _forget_clients()
        started_s = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"s3://bucket did not answer.*Hint: check AWS_ENDPOINT_URL") as caught:
            open_store("s3://bucket", settings=settings)
    assert time.monotonic() - started_s < 8
    assert (caught.value.facts["uri"], caught.value.exit_code) == ("s3://bucket", 4)


def _with_other_secret(home: Settings, folder: Path) -> Settings:
    other = Settings(home=folder)
    state = json.loads((home.home / "store" / "state.json").read_text())
    (folder / "store").mkdir(parents=True)
    (folder / "store" / "state.json").write_text(json.dumps({**state, "secret_key": "wrong"}))
    return other


def test_wrong_credentials_are_denied(embedded_store: ArtifactStore, home: Settings, tmp_path: Path) -> None:
    impostor = embedded.open_embedded(_with_other_secret(home, tmp_path))
    for action in (lambda: impostor.get("a"), lambda: impostor.put("a", b"1"), lambda: impostor.stat("a"), lambda: list(impostor.list(""))):
        with pytest.raises(StoreDenied, match="embedded refused: it answered") as caught:
            action()
        assert caught.value.exit_code == 4


def test_credentials_are_private_and_nowhere_else(embedded_store: ArtifactStore, home: Settings) -> None:
    folder = home.home / "store"
    state = json.loads((folder / "state.json").read_text())
    secrets = [state["secret_key"], *state["jwt_keys"]]
    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in ("state.json", "s3.json")] == [0o600, 0o600]
    embedded_store.put("a", b"1")
    running = embedded.status(home)
    assert running is not None
    shown = [repr(embedded_store), embedded_store.uri, repr(running), str(running.public()), pickle.dumps(embedded_store).decode("latin1")]
    shown += [(folder / "weed.log").read_text(errors="replace"), Path(f"/proc/{running.pid}/cmdline").read_text()]
    assert not [secret for secret in secrets for text in shown if secret in text]


def test_commands_that_start_at_once_share_one_server() -> None:
    with tempfile.TemporaryDirectory(prefix="fs", dir="/tmp") as folder:
        settings = Settings(home=Path(folder))
        with ThreadPoolExecutor(4) as pool:
            states = list(pool.map(lambda _: embedded.serve(settings), range(4)))
        try:
            assert len({state.pid for state in states}) == 1
        finally:
            assert embedded.stop(settings)
        assert embedded.status(settings) is None
        assert not embedded.stop(settings)
    assert not list(Path("/tmp").glob(f"seaweedfs-*{states[0].port}.sock"))


def test_the_server_outlives_the_command_that_started_it_and_its_ctrl_c(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    code = (
        "import os, signal, sys; from pathlib import Path; from foundry_ray.artifacts import embedded; from foundry_ray.config import Settings;"
        "embedded.serve(Settings(home=Path(sys.argv[1]))); os.killpg(0, signal.SIGINT)"
    )
    command = subprocess.run([sys.executable, "-c", code, str(tmp_path)], start_new_session=True, capture_output=True, timeout=60, check=False)
    try:
        assert command.returncode == -signal.SIGINT
        open_store("embedded", settings=settings).put("a", b"1")
    finally:
        assert embedded.stop(settings)


def test_after_kill_9_an_operation_revives_the_server_and_nothing_is_lost(home: Settings) -> None:
    store = open_store("embedded", settings=home)
    before = embedded.serve(home)
    store.put("durable", b"kept")
    os.kill(before.pid, signal.SIGKILL)
    assert store.get("durable") == b"kept"
    after = embedded.status(home)
    assert after is not None
    assert (after.port, after.pid != before.pid) == (before.port, True)


def test_a_stopped_server_is_not_revived_behind_the_users_back(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, store_retry_s=1.0)
    store = open_store("embedded", settings=settings)
    embedded.stop(settings)
    with pytest.raises(StoreUnavailable, match=r"embedded did not answer.*Gave up after \d+ attempts.*Hint: `foundry store serve` starts it"):
        store.get("a")
    assert embedded.status(settings) is None


def test_a_pid_that_belongs_to_another_process_is_not_touched(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    embedded.serve(settings)
    embedded.stop(settings)
    (tmp_path / "store" / "pid").write_text(str(os.getpid()))
    assert embedded.status(settings) is None
    assert not embedded.stop(settings)


def test_a_server_whose_pid_file_is_gone_is_reported_and_not_guessed_at(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    pid = embedded.serve(settings).pid
    (tmp_path / "store" / "pid").unlink()
    for action in (embedded.serve, embedded.stop):
        with pytest.raises(StoreUnavailable, match=r"neither joined nor stopped\. Hint: end the process `weed`"):
            action(settings)
    (tmp_path / "store" / "pid").write_text(str(pid))
    assert embedded.stop(settings)


def test_a_busy_port_is_replaced_and_the_data_stays(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    open_store("embedded", settings=settings).put("a", b"1")
    first = embedded.serve(settings)
    embedded.stop(settings)
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", first.port))
        squatter.listen()
        store = open_store("embedded", settings=settings)
    try:
        assert store.get("a") == b"1"
        assert embedded.serve(settings).port != first.port
    finally:
        embedded.stop(settings)


def test_a_store_that_never_ran_here_says_what_to_do(tmp_path: Path) -> None:
    store = embedded.open_embedded(Settings(home=tmp_path / "elsewhere"))
    with pytest.raises(StoreUnavailable, match=r"no embedded store was ever started.*s3://bucket"):
        store.get("a")


def test_a_rotten_blob_is_never_returned_by_a_server(embedded_store: ArtifactStore, tmp_path: Path) -> None:
    ref = publish(embedded_store, kind="model", files={"model.onnx": b"good"}, created_at="")
    blob = next(iter(embedded_store.list("blobs/"))).key
    embedded_store.put(blob, b"evil")
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx has sha256"):
        fetch(embedded_store, ref.key, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_racing_processes_create_an_object_once(embedded_store: ArtifactStore, home: Settings) -> None:
    others = [pickle.loads(pickle.dumps(embedded_store)) for _ in range(8)]

    def create(store: ArtifactStore) -> bool:
        try:
            store.put("leases/only", os.urandom(8), if_absent=True)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(create, others)).count(True) == 1


def test_small_objects_take_milliseconds(embedded_store: ArtifactStore) -> None:
    embedded_store.put("speed/warm", b"x")
    durations_s = []
    for number in range(20):
        started_s = time.perf_counter()
        embedded_store.put(f"speed/{number}", b"x" * 200)
        embedded_store.get(f"speed/{number}")
        durations_s.append(time.perf_counter() - started_s)
    assert sorted(durations_s)[10] < 0.1
