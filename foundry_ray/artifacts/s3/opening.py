"""From the `store:` section to an open store: the bucket is there, the credentials are accepted, and what the endpoint does is known."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from foundry_ray import __version__
from foundry_ray.artifacts.keys import check_key
from foundry_ray.artifacts.s3.capabilities import Memory, memory_of
from foundry_ray.artifacts.s3.credentials import endpoint_of
from foundry_ray.artifacts.s3.probing import probe
from foundry_ray.artifacts.s3.store import S3Store
from foundry_ray.config import StoreConfig
from foundry_ray.protocols import Clock

_log = logging.getLogger(__name__)
_ASKED = {"region", "profile", "credentials_file", "addressing", "checksums", "signing", "verify_tls", "proxy", "encryption", "kms_key_id", "tags"}


def open_s3(config: StoreConfig, *, home: Path, clock: Clock, is_checked: bool = True, is_probed_anew: bool = False) -> S3Store:
    """The store of a section whose `uri` is `s3://bucket` or `s3://bucket/prefix`.

    What the endpoint lacks is one warning when it is found out; later, only what a run needs is.

    Args:
        config: The section.
        home: FOUNDRY_HOME, where it is remembered for a day what the endpoint does.
        clock: Tells how old a memory is, and waits for a listing that lags.
        is_checked: Ask the server now. Off: what is remembered is trusted, and where nothing is, a server that can do everything is assumed.
        is_probed_anew: Whatever is remembered; who asks for it asks for the lacks too, so that they are no warning.

    Raises:
        ConfigError: The settings do not work, or there is no such bucket.
        StoreUnavailable: Nobody answers; found without the patience of later operations.
        StoreDenied: The credentials are refused.
        StoreError: The endpoint cannot be used, for the reason that is said.
    """
    endpoint_of(config)  # what is wrong with its files is said before anything is asked
    store = _unopened(config)
    if is_checked:
        store.open_bucket(create=False)
    with store.connection.translated("open", ""):
        memory = _memory(store, home)
    known = None if is_probed_anew else memory.read(clock.now_s())
    if known is not None:
        store.learn(*known)
    elif is_checked:
        _probe(store, memory, clock)
    if is_checked and not is_probed_anew:
        _warn_of_lacks(store, is_news=known is None)
    return store


def _warn_of_lacks(store: S3Store, *, is_news: bool) -> None:
    lacks = [lack for lack in store.capabilities.lacks(is_single_writer=store.config.single_writer) if is_news or lack.fix]
    if lacks:
        _log.warning("%s lacks: %s.", store.uri, "; ".join(f"{lack.text}: {lack.fix}" if lack.fix else lack.text for lack in lacks))


def _unopened(config: StoreConfig) -> S3Store:
    parts = urlsplit(config.uri)
    folder = parts.path.strip("/")
    prefix = f"{check_key(folder)}/" if folder else ""
    asked = "`store.endpoint`" if config.endpoint else "AWS_ENDPOINT_URL"
    hint = f"check {asked} and the network; `foundry doctor` asks again."
    return S3Store(uri=config.uri, bucket=parts.netloc, prefix=prefix, connect=partial(endpoint_of, config), hint=hint, config=config)


def _memory(store: S3Store, home: Path) -> Memory:
    bucket, prefix = store.location
    asked = store.config.model_dump(mode="json", include=_ASKED)
    return memory_of(home, endpoint=store.client().meta.endpoint_url, bucket=bucket, prefix=prefix, version=__version__, **asked)


def _probe(store: S3Store, memory: Memory, clock: Clock) -> None:
    found = probe(store, clock)
    if not found.is_read_only:  # that is about the credentials, and may be mended in a minute
        memory = memory.write(found, uri=store.uri, probed_at_s=clock.now_s())
    store.learn(found, memory)
