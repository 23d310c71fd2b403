"""Daemons: started apart, recognised, ended, and nothing else ended with them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundry_ray.clock import SystemClock
from foundry_ray.errors import ClusterUnreachable
from foundry_ray.runtime import daemon
from foundry_ray.testing.clock import FakeClock

_SLEEP = "import sys, time; print('ready', flush=True); time.sleep(60)"
_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[daemon.ProcessInfo]]:
    processes: list[daemon.ProcessInfo] = []
    yield processes
    for info in processes:
        daemon.stop(info.pid, info.started, marker=str(tmp_path), clock=SystemClock(), grace_s=0)


def _start(code: str, tmp_path: Path, started: list[daemon.ProcessInfo]) -> daemon.ProcessInfo:
    log, clock = tmp_path / "log", SystemClock()
    info = daemon.start([sys.executable, "-c", code, str(tmp_path)], env=dict(os.environ), log=log)
    started.append(info)
    deadline = clock.monotonic_s() + 20
    while b"ready" not in log.read_bytes():
        assert clock.monotonic_s() < deadline, log.read_text()
        clock.sleep(0.01)
    return info


def test_a_daemon_has_a_session_of_its_own_and_ends_on_request(tmp_path: Path, started: list[daemon.ProcessInfo]) -> None:
    info = _start(_SLEEP, tmp_path, started)
    assert os.getsid(info.pid) == info.pid == info.group
    assert daemon.is_alive(info.pid, info.started)
    assert daemon.stop(info.pid, info.started, marker=str(tmp_path), clock=SystemClock(), grace_s=10)
    assert not daemon.is_alive(info.pid, info.started)
    assert not daemon.stop(info.pid, info.started, marker=str(tmp_path), clock=SystemClock(), grace_s=10)


def test_a_daemon_that_ignores_the_request_is_killed(tmp_path: Path, started: list[daemon.ProcessInfo]) -> None:
    info = _start(_STUBBORN, tmp_path, started)
    assert daemon.stop(info.pid, info.started, marker=str(tmp_path), clock=SystemClock(), grace_s=0.2)
    assert not daemon.is_alive(info.pid, info.started)


def test_a_process_with_a_reused_id_is_not_ours_and_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path)]) as other:
        assert not daemon.is_alive(other.pid, "another start time")
        assert not daemon.stop(other.pid, "another start time", marker=str(tmp_path), clock=SystemClock(), grace_s=0)
        assert other.poll() is None
        other.kill()


def test_a_lock_that_is_held_too_long_says_which(tmp_path: Path) -> None:
    clock = FakeClock()
    with daemon.locked(tmp_path / "lock", clock=clock, timeout_s=1):
        late = daemon.locked(tmp_path / "lock", clock=clock, timeout_s=5)
        with pytest.raises(ClusterUnreachable, match=r"has held .*lock for more than 5 s"), late:
            pass
    assert sum(clock.sleeps) >= 5


def test_private_files_are_private_and_damaged_state_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    daemon.write_private(path, '{"pid": 1}')
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert daemon.read_state(path) == {"pid": 1}
    path.write_text('{"pid"')
    assert daemon.read_state(path) is None
    assert [child.name for child in path.parent.iterdir()] == ["state.json"]
