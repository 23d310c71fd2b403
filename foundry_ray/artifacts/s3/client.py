"""The boto3 client of an endpoint: one per process and endpoint, tuned.

Decides: how bodies are signed and checked, how long is waited, how the bucket is addressed. Bodies are signed where others could change
them on the way; loopback and https carry unsigned payloads, which is 1.5x faster. Credentials live in an `Endpoint` (hidden from repr) and
in the client, never in a pickle.
"""

from __future__ import annotations

import ipaddress
import os
import threading
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit

PART_BYTES = 16 << 20
_TIMEOUTS_S = {"connect_timeout": 3, "read_timeout": 60}
_clients: dict[tuple[int, Endpoint], Any] = {}
_clients_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server listens, who asks, and how. Everything absent: boto3's own chain (AWS_ENDPOINT_URL, AWS_PROFILE, instance role, ...).

    Attributes:
        is_unsigned: Signatures leave the payload out; None: on https that is verified, and on loopback.
        has_checksums: Requests carry checksums, and answers are asked for theirs; over https a body's checksum follows it as a trailer.
        ca_bundle: Path of a PEM file.
    """

    url: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    region: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    is_unsigned: bool | None = None
    has_checksums: bool = True
    verify_tls: bool = True
    ca_bundle: str | None = None
    proxy: str | None = None


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

    client = boto3.session.Session(profile_name=endpoint.profile).client(
        "s3",
        endpoint_url=endpoint.url,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        aws_session_token=endpoint.session_token,
        region_name=endpoint.region,
        verify=(endpoint.ca_bundle or None) if endpoint.verify_tls else False,
        config=Config(**_options(endpoint)),
    )
    if endpoint.is_unsigned is None:  # only the client knows what AWS_ENDPOINT_URL and the profile say
        return _make_client(replace(endpoint, is_unsigned=_is_private_path(client.meta.endpoint_url, endpoint)))
    return client


def _options(endpoint: Endpoint) -> dict[str, Any]:
    signing = {"payload_signing_enabled": not endpoint.is_unsigned}
    # A trailer would replace the signature of the payload, and that signature is a checksum already.
    checksums = "when_supported" if endpoint.has_checksums and endpoint.is_unsigned else "when_required"
    proxies = {"proxies": {"http": endpoint.proxy, "https": endpoint.proxy}} if endpoint.proxy else {}
    return {
        "s3": {"addressing_style": endpoint.addressing, **signing},
        "max_pool_connections": 32,
        "retries": {"total_max_attempts": 2, "mode": "standard"},
        "request_checksum_calculation": checksums,
        "response_checksum_validation": checksums,
        **proxies,
        **_TIMEOUTS_S,
    }


def _is_private_path(url: str, endpoint: Endpoint) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "https":
        return endpoint.verify_tls
    if endpoint.proxy is not None:
        return False
    if parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
