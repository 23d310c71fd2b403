"""A cluster that foundry did not start: `ray start --head` with a token, on free ports of loopback, as an administrator would run it."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from foundry_ray.clock import SystemClock
from foundry_ray.runtime import daemon, ports
from foundry_ray.runtime.env import NO_DRAIN

_START_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HandStarted:
    """Where it listens, and the file with its token."""

    dashboard_url: str
    address: str
    token_path: Path


@contextmanager
def hand_started(folder: Path, *, num_cpus: int = 2, object_store_bytes: int = 100 << 20) -> Iterator[HandStarted]:
    """Start a head, and end what was started. `folder` gets its token and its log."""
    token, log = folder / "token", folder / "head.log"
    token.write_text(secrets.token_hex(32))
    gcs, dashboard, agent, client = ports.free_ports(folder, 4)
    short = tempfile.mkdtemp(prefix="fj", dir="/tmp")  # a socket's path holds 107 characters at most
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port", str(gcs), "--num-cpus", str(num_cpus)]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--dashboard-agent-listen-port", str(agent)]
    command += ["--ray-client-server-port", str(client), "--temp-dir", short, "--object-store-memory", str(object_store_bytes)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0", **NO_DRAIN}
    process, clock = daemon.start(command, env=env, log=log), SystemClock()
    try:
        deadline = clock.monotonic_s() + _START_LIMIT_S
        while not (b"Ray runtime started" in log.read_bytes() and ports.is_listening(dashboard)):
            assert daemon.is_alive(process.pid, process.started), log.read_text()
            assert clock.monotonic_s() < deadline, log.read_text()
            clock.sleep(0.1)
        yield HandStarted(dashboard_url=f"http://127.0.0.1:{dashboard}", address=f"127.0.0.1:{gcs}", token_path=token)
    finally:
        daemon.stop(process.pid, process.started, marker=short, clock=clock, grace_s=10)
        shutil.rmtree(short, ignore_errors=True)
