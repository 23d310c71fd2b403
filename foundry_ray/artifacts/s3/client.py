"""The boto3 client of an endpoint: one per process and endpoint, tuned.

Bodies are signed on plain http to other machines; loopback and https carry unsigned payloads, which is 1.5x faster. Credentials live in an
`Endpoint` (hidden from repr) and in the client, never in a pickle.
"""

from __future__ import annotations

import ipaddress
import os
import threading
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

PART_BYTES = 16 << 20
_TIMEOUTS_S = {"connect_timeout": 3, "read_timeout": 60}
_clients: dict[tuple[int, Endpoint], Any] = {}
_clients_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server listens and who asks. Everything absent: boto3's own chain (AWS_ENDPOINT_URL, AWS_PROFILE, instance role, ...)."""

    url: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    region: str | None = None
    is_unsigned: bool = False
    has_checksums: bool = False


def client_of(endpoint: Endpoint) -> Any:
    """The process's client of an endpoint, made on first use."""
    mark = (os.getpid(), endpoint)  # a client does not survive a fork
    with _clients_lock:
        if mark not in _clients:
            _clients[mark] = _make_client(endpoint)
        return _clients[mark]


def _make_client(endpoint: Endpoint) -> Any:
    import boto3
    from botocore.config import Config

    signing = {"payload_signing_enabled": False} if endpoint.is_unsigned else {}
    checksums = "when_supported" if endpoint.has_checksums else "when_required"
    options: dict[str, Any] = {
        "s3": {"addressing_style": "path", **signing},
        "max_pool_connections": 32,
        "retries": {"total_max_attempts": 2, "mode": "standard"},
        "request_checksum_calculation": checksums,
        "response_checksum_validation": checksums,
        **_TIMEOUTS_S,
    }
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint.url,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        region_name=endpoint.region,
        config=Config(**options),
    )
    if not endpoint.is_unsigned and _is_private_path(client.meta.endpoint_url):
        return _make_client(replace(endpoint, is_unsigned=True))
    return client


def _is_private_path(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
