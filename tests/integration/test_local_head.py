"""The local head, driven from processes of their own, because Ray keeps one connection and one token per process."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundry_ray.clock import SystemClock
from foundry_ray.config import LimitsConfig, Settings
from foundry_ray.errors import ClusterUnreachable, DataError, ResourcesUnavailable, WorkerGroupFailed
from foundry_ray.runtime import daemon, local_head, ports
from foundry_ray.runtime.session import connect
from foundry_ray.testing.reporters import RecordingReporter

_ROOT = Path(__file__).parents[2]
_PRELUDE = """
import sys
from pathlib import Path
from foundry_ray.config import LimitsConfig, Settings
from foundry_ray.errors import FoundryError
from foundry_ray.runtime.session import connect
from foundry_ray.testing.reporters import RecordingReporter
home, arguments = Path(sys.argv[1]), sys.argv[2:]
def join(cluster, **more):
    return connect(cluster, settings=Settings(home=home, **more), limits=LimitsConfig(), reporter=RecordingReporter())
"""


def _driver(code: str, home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-c", _PRELUDE + code, str(home), *arguments]


def _drive(code: str, home: Path, *arguments: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(_driver(code, home, *arguments), env=env, cwd=_ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module", autouse=True)
def _no_traces() -> Iterator[None]:
    before = set(Path("/tmp").glob("foundry-*"))
    made: list[Path] = []
    original = local_head._temp_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_head, "_temp_dir", lambda settings: made.append(original(settings)) or made[-1])
        yield
    for folder in set(made) - before:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, local_head.HeadState]]:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    yield settings, local_head.up(settings, SystemClock())
    local_head.down(settings)


Head = tuple[Settings, local_head.HeadState]


def test_the_head_listens_on_loopback_alone_and_keeps_its_token_private(head: Head) -> None:
    settings, state = head
    assert state.address.startswith("127.0.0.1:")
    assert not any(ports.is_listening(port, host, timeout_s=0.2) for port in state.ports for host in _other_addresses())
    assert stat.S_IMODE(Path(state.token_path).stat().st_mode) == 0o600
    assert state.token not in str(state.public())
    assert settings.home in Path(state.token_path).parents


def test_up_joins_the_head_that_runs(head: Head) -> None:
    settings, state = head
    assert local_head.up(settings, SystemClock()) == state
    assert local_head.status(settings) == state


def test_a_driver_joins_the_running_head_and_leaves_it_running(head: Head) -> None:
    settings, state = head
    code = "s = join('local'); print(s.started_head, s.resources()['CPU'] >= 1); s.close(); s.close()"
    assert _drive(code, settings.home) == "False True"
    assert local_head.status(settings) == state


def test_a_driver_starts_the_head_where_none_runs_and_it_outlives_the_driver(settings: Settings) -> None:
    code = "s = join('local'); print(s.started_head, s.call(lambda reporter: 6 * 7, reporter=RecordingReporter())); s.close()"
    try:
        assert _drive(code, settings.home) == "True 42"
        assert local_head.status(settings) is not None
    finally:
        local_head.down(settings)
        shutil.rmtree(local_head._temp_dir(settings))


def test_a_wrong_token_is_denied_at_once_with_a_hint(head: Head, tmp_path: Path) -> None:
    settings, state = head
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    code = """
import time
begin = time.monotonic()
try:
    join(arguments[0], token_path=Path(arguments[1]))
except FoundryError as error:
    print(type(error).__name__, error.exit_code, time.monotonic() - begin < 5, error)
"""
    assert _drive(code, settings.home, state.address, str(wrong)).startswith("ClusterDenied 4 True The Ray cluster at ")


def test_an_interrupt_cancels_the_remote_call(head: Head, tmp_path: Path) -> None:
    settings, _ = head
    mark = tmp_path / "alive"
    code = """
import time
def endless(mark, *, reporter):
    while True:
        Path(mark).touch(); reporter.progress(1, 2); time.sleep(0.05)
class Showing(RecordingReporter):
    def progress(self, *args): print("progress", flush=True)
s = join('local')
try:
    s.call(endless, arguments[0], reporter=Showing())
except KeyboardInterrupt:
    s.close(); print("interrupted")
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with subprocess.Popen(_driver(code, settings.home, str(mark)), env=env, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "progress\n"
        driver.send_signal(signal.SIGINT)
        assert driver.communicate(timeout=30)[0].splitlines()[-1] == "interrupted"
    assert _stays_away(mark)


def _stays_away(mark: Path) -> bool:
    """Whether nobody writes the file any more: deleted, it is still gone ten of its writer's periods later."""
    clock = SystemClock()
    for _ in range(20):
        mark.unlink(missing_ok=True)
        clock.sleep(0.5)
        if not mark.exists():
            return True
    return False


def test_down_ends_every_process_and_up_comes_back_on_the_same_ports(settings: Settings) -> None:
    first = local_head.up(settings, SystemClock(), is_complete=False)
    assert local_head.down(settings)
    assert not [info for info in daemon.processes() if first.temp_dir in info.command and not info.is_zombie]
    assert local_head.status(settings) is None
    assert not local_head.down(settings)
    second = local_head.up(settings, SystemClock(), is_complete=False)
    local_head.down(settings)
    assert second.ports == first.ports
    assert second.pid != first.pid


def test_a_killed_head_is_replaced_and_its_helpers_are_ended(settings: Settings) -> None:
    first = local_head.up(settings, SystemClock())
    os.kill(first.pid, signal.SIGKILL)
    deadline_s = SystemClock().monotonic_s() + 20
    while daemon.is_alive(first.pid, first.started) and SystemClock().monotonic_s() < deadline_s:
        SystemClock().sleep(0.01)
    second = local_head.up(settings, SystemClock(), is_complete=False)
    own = {info.group for info in daemon.processes() if first.temp_dir in info.command and not info.is_zombie}
    local_head.down(settings)
    assert own == {second.pid}


def test_a_head_that_dies_at_the_start_shows_its_log(settings: Settings) -> None:
    options = local_head.HeadOptions(object_store_bytes=1)
    with pytest.raises(ClusterUnreachable, match=r"The local Ray head ended while it started\. The end of .*head\.log: .*") as caught:
        local_head.up(settings, SystemClock(), 30.0, options=options)
    assert "object" in str(caught.value)


def _other_addresses() -> list[str]:
    listing = Path("/proc/net/fib_trie").read_text() if Path("/proc/net/fib_trie").exists() else ""
    return sorted({line.split()[-1] for line in listing.splitlines() if "|--" in line and not line.split()[-1].startswith(("127.", "0.", "224."))})


def _add(left: int, right: int, *, reporter: RecordingReporter) -> int:
    reporter.report(1, {"sum": float(left + right)})
    reporter.warn("careful")
    return left + right


def _broken(*, reporter: RecordingReporter) -> None:
    raise DataError("row 3 is broken.", hint="mend it.")


def _dying(*, reporter: RecordingReporter) -> None:
    os._exit(7)


@pytest.fixture
def session(ray_session: object, settings: Settings, reporter: RecordingReporter) -> Iterator[object]:
    with connect("local", settings=settings, limits=LimitsConfig(), reporter=reporter) as session:
        yield session


def test_a_call_returns_the_result_and_shows_the_reports(session, reporter: RecordingReporter) -> None:
    assert session.call(_add, 2, 3, reporter=reporter) == 5
    assert reporter.reports == [(1, {"sum": 5.0})]
    assert reporter.warnings == ["careful"]


def test_an_error_of_the_call_comes_out_as_itself(session, reporter: RecordingReporter) -> None:
    with pytest.raises(DataError, match="row 3 is broken") as caught:
        session.call(_broken, reporter=reporter)
    assert caught.value.hint == "mend it."


def test_a_dead_worker_is_a_worker_group_failure(session, reporter: RecordingReporter) -> None:
    with pytest.raises(WorkerGroupFailed, match="The worker of _dying died: ") as caught:
        session.call(_dying, reporter=reporter)
    assert set(caught.value.facts["failures"]) == {0}


def test_more_than_the_machine_has_is_refused_before_it_waits(session, reporter: RecordingReporter) -> None:
    with pytest.raises(ResourcesUnavailable, match=r"teacher\.workers needs 9 CPU, but the cluster has 2 CPU") as caught:
        session.require({"CPU": 9}, "teacher.workers")
    assert caught.value.exit_code == 2
    with pytest.raises(ResourcesUnavailable, match="_add needs 1 GPU, but the cluster has 0 GPU"):
        session.call(_add, 1, 1, num_gpus=1, reporter=reporter)


def test_a_joined_session_is_left_open(session) -> None:
    import ray

    session.close()
    assert ray.is_initialized()
