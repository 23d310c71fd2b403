"""Free TCP ports that stay the same: chosen once per FOUNDRY_HOME, remembered by whoever asked.

The range lies between the ports that Ray gives to its workers (10002-19999) and those that the system gives to clients (from 32768),
so that neither takes one between the choice and its use.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from foundry_ray.errors import ClusterUnreachable

_FIRST, _LAST = 20_000, 32_000


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def is_listening(port: int, host: str = "127.0.0.1", *, timeout_s: float = 1.0) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return False
    return True


def free_port(seed: Path | str, *, taken: Sequence[int] = ()) -> int:
    """A free port; the same one for the same seed as long as nobody else took it."""
    for port in _candidates(str(seed)):
        if port not in taken and is_free(port):
            return port
    raise ClusterUnreachable(f"No TCP port from {_FIRST} to {_LAST} is free on 127.0.0.1.", hint="end some servers.", address="127.0.0.1")


def free_ports(seed: Path | str, count: int, *, remembered: Sequence[int] = ()) -> tuple[int, ...]:
    """So many distinct free ports: the remembered ones where they all are free, otherwise others."""
    if len(remembered) == count and all(is_free(port) for port in remembered):
        return tuple(remembered)
    chosen: list[int] = []
    for index in range(count):
        chosen.append(free_port(f"{seed}#{index}", taken=chosen))
    return tuple(chosen)


def _candidates(seed: str) -> Iterator[int]:
    start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big")
    return (_FIRST + (start + step) % (_LAST - _FIRST) for step in range(_LAST - _FIRST))
