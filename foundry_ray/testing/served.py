"""An embedded server of its own for tests that put proxies before it or kill it, with the account that it has."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from foundry_ray.artifacts import embedded, open_store
from foundry_ray.config import Settings, StoreConfig
from foundry_ray.protocols import ArtifactStore
from foundry_ray.testing.signing import Signer


@dataclass(frozen=True)
class Served:
    """A running server.

    Attributes:
        settings: Its FOUNDRY_HOME, in a short folder that goes with it.
        credentials: A file of mode 0600, as `store.credentials_file` wants it.
        signer: The same account, for gateways that sign again.
    """

    settings: Settings
    port: int
    credentials: Path
    signer: Signer

    @property
    def folder(self) -> Path:
        """A folder beside its home that goes with it too."""
        return self.settings.home.parent

    def config(self, url: str, folder: str = "", **options: object) -> StoreConfig:
        """The section of a store in `folder` of its bucket, reached by a URL."""
        known = {"uri": f"s3://{embedded.BUCKET}/{folder}", "endpoint": url, "region": "us-east-1", "credentials_file": self.credentials}
        return StoreConfig.model_validate(known | options)

    def open(self) -> ArtifactStore:
        """All of its bucket, past every proxy."""
        return open_store("embedded", settings=self.settings)


@contextmanager
def served(*, retry_s: float = 20.0) -> Iterator[Served]:
    """Start a server and stop it, whatever happens inside."""
    with tempfile.TemporaryDirectory(prefix="fs", dir="/tmp") as name:
        settings = Settings(home=Path(name) / "home", store_retry_s=retry_s)
        try:
            open_store("embedded", settings=settings)
            secrets = json.loads((settings.home / "store" / "state.json").read_text())
            credentials = settings.home / "credentials"
            credentials.touch(mode=0o600)
            credentials.write_text(f"[default]\naws_access_key_id={secrets['access_key']}\naws_secret_access_key={secrets['secret_key']}\n")
            signer = Signer(access_key=secrets["access_key"], secret_key=secrets["secret_key"])
            yield Served(settings, embedded.serve(settings).port, credentials, signer)
        finally:
            embedded.stop(settings)
