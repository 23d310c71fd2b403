"""How a store reaches its server: which endpoint, over which client, and what is said where that fails.

Credentials live in an `Endpoint` (hidden from repr) and in boto3's client, never in the pickle: a connection that lands in another process
asks its `connect` again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from foundry_ray.artifacts.s3.client import Endpoint, client_of
from foundry_ray.artifacts.s3.errors import Place, client_errors, meaning
from foundry_ray.config import StoreConfig
from foundry_ray.errors import StoreDenied, StoreUnavailable


class Connection:
    """A server, as one store asks it.

    Args:
        bucket: The bucket that messages name.
        connect: Gives the endpoint; picklable and without secrets in it. Asked again after the server was not reached or refused.
        hint: What to do where the server does not answer.
        config: The section of the store.
    """

    def __init__(self, *, bucket: str, connect: Callable[[], Endpoint], hint: str, config: StoreConfig) -> None:
        self.config = config
        self._bucket = bucket
        self._connect = connect
        self._hint = hint
        self._known_endpoint: Endpoint | None = None

    @property
    def place(self) -> Place:
        """What messages may say about the store."""
        return Place(
            uri=self.config.uri, bucket=self._bucket, address=self._address(), unreachable_hint=self._hint, denied_hint=_denied_hint(self.config)
        )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_known_endpoint": None}

    def endpoint(self) -> Endpoint:
        """Where the server is now, credentials included. Never log or pickle it. Raises ConfigError, or what `connect` raises."""
        if self._known_endpoint is None:
            self._known_endpoint = self._connect()
        return self._known_endpoint

    def client(self, *, has_checksums: bool = True) -> Any:
        """The process's boto3 client of the endpoint; it can be told to leave the checksums out of its requests."""
        endpoint = self.endpoint()
        return client_of(endpoint if has_checksums else replace(endpoint, has_checksums=False))

    @contextmanager
    def translated(self, action: str, key: str) -> Iterator[None]:
        """Turns what the client raises into errors of the tree."""
        try:
            yield
        except client_errors() as error:
            found = meaning(error, action=action, key=key, place=self.place)
            if isinstance(found, (StoreUnavailable, StoreDenied)):
                self._known_endpoint = None
            raise found from error

    def _address(self) -> str:
        """Scheme, host and port of the server; a user in the URL stays out of it. Empty where no client can be made."""
        if self._known_endpoint is None:
            return ""
        try:
            parts = urlsplit(self.client().meta.endpoint_url)
        except client_errors():
            return ""
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _denied_hint(config: StoreConfig) -> str:
    if config.uri == "embedded":
        return "`foundry store stop`, then repeat: the server starts again with the credentials of this FOUNDRY_HOME."
    if config.credentials_file is not None:
        return f"check the credentials in {config.credentials_file} (`store.credentials_file`), and their rights on the bucket."
    return "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE, `store.profile`), and their rights on the bucket."
