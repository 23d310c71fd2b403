"""The embedded server's secrets and its port: what they are, and the file of mode 0600 that keeps them."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from foundry_ray.secrecy import Secret, SecretBytes
from foundry_ray.types import FORMAT_VERSION

_FILE = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What a server of one home is reached with.

    Attributes:
        port: Its S3 port; None where it never had one.
        is_locked: Whether it was started with certificates, which servers of earlier versions lack.
    """

    port: int | None
    access_key: Secret = field(repr=False)
    secret_key: Secret = field(repr=False)
    jwt_keys: tuple[Secret, ...] = field(repr=False)
    is_locked: bool


def new_secrets() -> Secrets:
    """Random ones."""
    return Secrets(
        port=None,
        access_key=Secret(secrets.token_hex(10)),
        secret_key=Secret(secrets.token_urlsafe(30)),
        jwt_keys=tuple(Secret(secrets.token_hex(32)) for _ in range(4)),
        is_locked=False,
    )


def read_secrets(folder: Path) -> Secrets | None:
    """What the file holds; None where it is absent or unreadable, and then new secrets are as good as the old ones.

    Raises:
        OSError: It is not for this user to read.
    """
    try:
        document = json.loads((folder / _FILE).read_bytes())
        return Secrets(
            port=int(document["port"]),
            access_key=Secret(document["access_key"]),
            secret_key=Secret(document["secret_key"]),
            jwt_keys=tuple(Secret(key) for key in document["jwt_keys"]),
            is_locked=document.get("is_locked") is True,
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def write_secrets(folder: Path, known: Secrets) -> None:
    """Keep them. Raises OSError where the folder cannot be written."""
    document = {
        "format_version": FORMAT_VERSION,
        "port": known.port,
        "access_key": known.access_key,
        "secret_key": known.secret_key,
        "jwt_keys": known.jwt_keys,
        "is_locked": known.is_locked,
    }
    write_private(folder / _FILE, SecretBytes(json.dumps(document).encode()))


def write_private(path: Path, data: SecretBytes) -> None:
    """A file of mode 0600 that appears whole. Raises OSError where the folder cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
