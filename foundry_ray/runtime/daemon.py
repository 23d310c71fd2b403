"""Processes that outlive the command that started them: start, recognise, stop, with a lock and a 0600 state file.

Decides how a process is known again: by its id *and* its start time, because ids are reused. Ends only what it can prove to be its
own: the process itself, or members of its group whose command line carries the daemon's own marker.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from foundry_ray.errors import ClusterUnreachable
from foundry_ray.protocols import Clock
from foundry_ray.types import Json

_POLL_S = 0.02
# A launcher in between makes the daemon nobody's child: no zombie is left in a long-lived parent, no ResourceWarning in a test.
_LAUNCHER = (
    "import os,subprocess,sys;"
    "log=open(sys.argv[1],'ab');"
    "p=subprocess.Popen(sys.argv[2:],stdin=subprocess.DEVNULL,stdout=log,stderr=log,cwd=os.path.dirname(sys.argv[1]),start_new_session=True);"
    "print(p.pid,flush=True);os._exit(0)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """One row of the process table. `started` is opaque: equal means the same process."""

    pid: int
    group: int
    is_zombie: bool
    started: str
    command: str


@contextmanager
def locked(path: Path, *, clock: Clock, timeout_s: float) -> Iterator[None]:
    """Hold an exclusive file lock. Raises ClusterUnreachable where another process holds it longer than `timeout_s`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = clock.monotonic_s() + timeout_s
    with path.open("a") as handle:
        while not _try_lock(handle.fileno()):
            if clock.monotonic_s() > deadline:
                raise ClusterUnreachable(
                    f"Another command has held {path} for more than {timeout_s:.0f} s.",
                    hint="wait for it, or raise `limits.connect_timeout_s`.",
                    address=str(path),
                )
            clock.sleep(_POLL_S)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
        handle.write(text)
    draft.replace(path)


def read_state(path: Path) -> Mapping[str, Json] | None:
    """A state file's content; None where there is none or it is damaged (then the daemon counts as not running)."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def start(command: Sequence[str], *, env: Mapping[str, str], log: Path) -> ProcessInfo:
    """Start a process in a session of its own, its output appended to `log`; Ctrl-C in this terminal does not reach it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    launcher = [sys.executable, "-I", "-c", _LAUNCHER, str(log), *command]
    done = subprocess.run(launcher, env=dict(env), stdout=subprocess.PIPE, check=True, timeout=30)
    pid = int(done.stdout)
    found = process(pid)
    return found or ProcessInfo(pid=pid, group=pid, is_zombie=True, started="", command="")


def process(pid: int) -> ProcessInfo | None:
    """One process by its id; None where there is none."""
    if Path("/proc/self/stat").exists():
        return _from_proc(pid)
    return next((info for info in processes() if info.pid == pid), None)


def is_alive(pid: int, started: str) -> bool:
    """Whether the process that was started then still runs."""
    info = process(pid)
    return info is not None and not info.is_zombie and info.started == started


def processes() -> Iterator[ProcessInfo]:
    """The process table, zombies included."""
    if not Path("/proc/self/stat").exists():
        yield from _from_ps()
        return
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (info := _from_proc(int(entry.name))) is not None:
            yield info


def stop(pid: int, started: str, *, marker: str, clock: Clock, grace_s: float, kill_after_s: float = 5.0) -> bool:
    """End a daemon: SIGTERM to it, then SIGKILL to what is left of its group.

    Args:
        pid: Its id, which is also its group's.
        started: Its start time, as `start` returned it.
        marker: Text that the command lines of its helpers carry.
        grace_s: Time to end by itself.
        kill_after_s: Time to vanish after SIGKILL.

    Returns:
        Whether anything was running.
    """
    was_running = is_alive(pid, started)
    if was_running:
        _signal(pid, signal.SIGTERM)
        _wait(lambda: not is_alive(pid, started), clock, grace_s)
    own = _members(pid, started, marker)
    _wait(lambda: not _members(pid, started, marker), clock, min(grace_s, 2.0))
    for info in _members(pid, started, marker):
        _signal(info.pid, signal.SIGKILL)
    _wait(lambda: not _members(pid, started, marker), clock, kill_after_s)
    return was_running or bool(own)


def _members(group: int, started: str, marker: str) -> list[ProcessInfo]:
    alive = [info for info in processes() if not info.is_zombie]
    return [info for info in alive if (info.pid == group and info.started == started) or (info.group == group and marker in info.command)]


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _wait(is_done: Callable[[], bool], clock: Clock, timeout_s: float) -> None:
    deadline = clock.monotonic_s() + timeout_s
    while not is_done() and clock.monotonic_s() < deadline:
        clock.sleep(_POLL_S)


def _from_proc(pid: int) -> ProcessInfo | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    # The name of the program stands in parentheses and may hold spaces: fields count from behind them.
    fields = stat.rpartition(")")[2].split()
    return ProcessInfo(pid=pid, group=int(fields[2]), is_zombie=fields[0] in "ZX", started=fields[19], command=command)


def _from_ps() -> Iterator[ProcessInfo]:
    listing = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,pgid=,stat=,lstart=,command="], stdout=subprocess.PIPE, check=True, text=True, timeout=30
    )
    for line in listing.stdout.splitlines():
        pid, group, state, *rest = line.split(None, 8)
        yield ProcessInfo(
            pid=int(pid), group=int(group), is_zombie=state.startswith("Z"), started=" ".join(rest[:5]), command=rest[5] if len(rest) > 5 else ""
        )
