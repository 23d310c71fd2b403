"""A user's account at an S3-compatible server on loopback, and the sections that lead to it through proxies."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundry_ray.artifacts import open_store
from foundry_ray.artifacts.s3.client import Endpoint, client_of
from foundry_ray.config import Settings, StoreConfig
from foundry_ray.protocols import ArtifactStore
from foundry_ray.testing.exchanges import Layer
from foundry_ray.testing.proxy import Proxy


@dataclass(frozen=True)
class Account:
    """A user with a bucket `account` at the server on `port` of this machine.

    Attributes:
        credentials: A file of mode 0600, as `store.credentials_file` wants it.
        certificate: A PEM file with key and certificate of localhost, for proxies that speak https.
        settings: The user's FOUNDRY_HOME.
    """

    port: int
    credentials: Path
    certificate: Path
    settings: Settings

    def config(self, url: str, **options: object) -> StoreConfig:
        known = {"uri": "s3://account/team", "endpoint": url, "region": "us-east-1", "credentials_file": self.credentials}
        return StoreConfig.model_validate(known | options)

    @contextmanager
    def at(self, *layers: Layer, tls: bool = False, **options: object) -> Iterator[tuple[StoreConfig, Proxy]]:
        """A section for this account behind these layers."""
        with Proxy(self.port, *layers, tls=_tls(self.certificate) if tls else None) as proxy:
            yield self.config(proxy.url, **({"ca_bundle": self.certificate} if tls else {}), **options), proxy

    def open(self, config: StoreConfig) -> ArtifactStore:
        return open_store(config, settings=self.settings)

    def client(self) -> Any:
        """Past the proxy."""
        return client_of(Endpoint(url=f"http://127.0.0.1:{self.port}", access_key="a", secret_key="b", region="us-east-1"))

    def keys(self) -> list[str]:
        return [item["Key"] for item in self.client().list_objects_v2(Bucket="account").get("Contents", ())]


def _tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context
