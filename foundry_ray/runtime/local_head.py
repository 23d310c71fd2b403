"""A Ray head of foundry's own, on loopback: what `cluster: local` means. Outlives commands until `foundry cluster down`.

Decides: where its state lies (`FOUNDRY_HOME/head`: token, state file, log, lock), its ports (fixed per home, remembered), its folder for
sockets and logs (short, because a socket's path holds 107 characters at most), and its token (its own; none under `~/.ray`).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foundry_ray.clock import SystemClock
from foundry_ray.config import Settings
from foundry_ray.errors import ArtifactCorrupt, ClusterDenied, ClusterUnreachable
from foundry_ray.protocols import Clock
from foundry_ray.runtime import daemon, ports
from foundry_ray.runtime.env import LOOPBACK, NO_DRAIN, auth_env, child_env
from foundry_ray.secrecy import Secret
from foundry_ray.types import Json, canonical_bytes, from_json, to_json

_HOST = "127.0.0.1"
_PORT_NAMES = ("gcs", "dashboard", "agent", "client")
_POLL_S = 0.02
_GRACE_S = 8.0
_READY_LINE = b"Ray runtime started"
_LOG_TAIL_BYTES = 1500
# Ray's default is 30 % of memory; what foundry keeps there is data sets and distillation targets, tens to hundreds of MB.
_OBJECT_STORE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOptions:
    """How large the head is. None: what the machine has."""

    num_cpus: int | None = None
    num_gpus: int | None = None
    object_store_bytes: int = _OBJECT_STORE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadState:
    """A head that was started. `ports` are those of GCS, dashboard, agent and Ray client."""

    pid: int
    started: str
    address: str
    dashboard_url: str
    token_path: str
    temp_dir: str
    log_path: str
    ports: tuple[int, ...]

    @property
    def token(self) -> Secret:
        """The secret that drivers and job clients show."""
        return Secret(Path(self.token_path).read_text(encoding="utf-8").strip())

    def public(self) -> Json:
        """What may be printed: everything but the token, of which only the path is known."""
        return to_json(self)


def up(settings: Settings, clock: Clock, timeout_s: float = 60.0, *, options: HeadOptions | None = None, is_complete: bool = True) -> HeadState:
    """Start the head, or join the one that runs.

    Args:
        settings: Says where FOUNDRY_HOME is.
        clock: Time.
        timeout_s: Longest wait for it to answer.
        options: Its size; ignored where it runs already.
        is_complete: Wait for its node and its dashboard too. A driver need not: it joins as soon as the first port answers, and waits
            for the node while it loads its own libraries.

    Raises:
        ClusterUnreachable: It did not come up; the message ends with its log.
    """
    with daemon.locked(_folder(settings) / "lock", clock=clock, timeout_s=timeout_s):
        state = status(settings) or _start(settings, clock, timeout_s, options or HeadOptions())
    if is_complete:
        _wait_for(lambda: _is_complete(state), state, clock, timeout_s)
    return state


def status(settings: Settings) -> HeadState | None:
    """The head that runs under this FOUNDRY_HOME; None where none does."""
    state = _read(settings)
    if state is None or not daemon.is_alive(state.pid, state.started):
        return None
    return state if ports.is_listening(state.ports[0]) else None


def down(settings: Settings, clock: Clock | None = None, grace_s: float = _GRACE_S) -> bool:
    """Stop the head and everything that it started, and nothing else. Returns whether it ran."""
    clock = clock or SystemClock()
    with daemon.locked(_folder(settings) / "lock", clock=clock, timeout_s=2 * grace_s):
        state = _read(settings)
        if state is None:
            return False
        return daemon.stop(state.pid, state.started, marker=state.temp_dir, clock=clock, grace_s=grace_s)


def _start(settings: Settings, clock: Clock, timeout_s: float, options: HeadOptions) -> HeadState:
    before = _read(settings)
    if before is not None:  # a head that was killed leaves helpers behind
        daemon.stop(before.pid, before.started, marker=before.temp_dir, clock=clock, grace_s=_GRACE_S)
    token = _token(settings)
    folder = _temp_dir(settings)
    chosen = ports.free_ports(settings.home, len(_PORT_NAMES), remembered=before.ports if before else ())
    log = _folder(settings) / "head.log"
    log.unlink(missing_ok=True)
    env = child_env(settings, {**auth_env(token), **LOOPBACK, **NO_DRAIN})
    process = daemon.start(_command(chosen, folder, options), env=env, log=log)
    state = HeadState(
        pid=process.pid,
        started=process.started,
        address=f"{_HOST}:{chosen[0]}",
        dashboard_url=f"http://{_HOST}:{chosen[1]}",
        token_path=str(token),
        temp_dir=str(folder),
        log_path=str(log),
        ports=chosen,
    )
    # Written before it answers, so that an interrupted start can be taken down.
    daemon.write_private(_state_path(settings), canonical_bytes(to_json(state)).decode())
    _wait_for(lambda: ports.is_listening(chosen[0]), state, clock, timeout_s)
    return state


def _command(chosen: tuple[int, ...], folder: Path, options: HeadOptions) -> list[str]:
    gcs, dashboard, agent, client = (str(port) for port in chosen)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address", _HOST, "--port", gcs, "--dashboard-host", _HOST, "--dashboard-port", dashboard]
    command += ["--dashboard-agent-listen-port", agent, "--ray-client-server-port", client]
    # One machine: nothing to scale, and drivers do not print workers' logs. Each is a process less at the start.
    command += ["--no-monitor", "--include-log-monitor", "false"]
    command += ["--temp-dir", str(folder), "--object-store-memory", str(options.object_store_bytes)]
    for flag, value in (("--num-cpus", options.num_cpus), ("--num-gpus", options.num_gpus)):
        command += [flag, str(value)] if value is not None else []
    return command


def _wait_for(is_ready: Callable[[], bool], state: HeadState, clock: Clock, timeout_s: float) -> None:
    deadline = clock.monotonic_s() + timeout_s
    while not is_ready():
        if not daemon.is_alive(state.pid, state.started):
            raise _failed(state, "ended while it started")
        if clock.monotonic_s() > deadline:
            raise _failed(state, f"is not ready after {timeout_s:.0f} s")
        clock.sleep(_POLL_S)


def _is_complete(state: HeadState) -> bool:
    try:
        return _READY_LINE in Path(state.log_path).read_bytes() and ports.is_listening(state.ports[1])
    except OSError:
        return False


def _failed(state: HeadState, what: str) -> ClusterUnreachable:
    try:
        tail = Path(state.log_path).read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        tail = ""
    return ClusterUnreachable(
        f"The local Ray head {what}. The end of {state.log_path}: {tail or 'nothing'}",
        hint="`foundry cluster down`, then `foundry cluster up`; `foundry doctor` looks for the cause.",
        address=state.address,
    )


def _folder(settings: Settings) -> Path:
    folder = settings.home / "head"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _state_path(settings: Settings) -> Path:
    return settings.home / "head" / "state.json"


def _read(settings: Settings) -> HeadState | None:
    state = daemon.read_state(_state_path(settings))
    try:
        return None if state is None else from_json(HeadState, dict(state), what="head state")
    except ArtifactCorrupt:
        return None


def token_path(settings: Settings) -> Path:
    """Where the token of this home's head lies, once it was started."""
    return settings.home / "head" / "token"


def _token(settings: Settings) -> Path:
    path = token_path(settings)
    if not path.exists():
        daemon.write_private(path, secrets.token_hex(32))
    return path


def _temp_dir(settings: Settings) -> Path:
    """A short folder of this user's own; sessions of earlier heads in it are removed."""
    digest = hashlib.sha256(str(settings.home).encode()).hexdigest()[:8]
    folder = Path(f"/tmp/foundry-{os.getuid()}-{digest}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ClusterDenied(f"{folder} belongs to somebody else, wanted a folder of this user.", hint="remove it, or set FOUNDRY_HOME elsewhere.")
    for session in sorted(folder.glob("session_2*"))[:-1]:
        shutil.rmtree(session, ignore_errors=True)
    return folder
