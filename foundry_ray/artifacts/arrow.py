"""A pyarrow view of a store, for Ray: the same endpoint and prefix, and no credentials when it is pickled to a worker.

Ray hands `storage_filesystem` to its workers through its control store. A plain `S3FileSystem` would carry the secret key along; the
view carries the ArtifactStore, which finds its credentials where it lands. Folders are deleted object by object, because some servers
refuse DeleteObjects.
"""

from __future__ import annotations

from typing import Any, cast

import pyarrow.fs as arrow_fs

from foundry_ray.artifacts.cache import Cached
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.artifacts.retrying import Retrying
from foundry_ray.artifacts.s3 import S3Store
from foundry_ray.errors import ConfigError
from foundry_ray.protocols import ArtifactStore


def arrow_filesystem(store: ArtifactStore) -> tuple[Any, str]:
    """A pyarrow FileSystem and the base path of the store in it. Raises ConfigError for a store that has no such view."""
    inner = store
    while isinstance(inner, (Cached, Retrying)):
        inner = inner.inner
    if isinstance(inner, LocalStore):
        return arrow_fs.LocalFileSystem(), str(inner.root)
    if isinstance(inner, S3Store):
        bucket, prefix = inner.location
        return arrow_fs.PyFileSystem(_StoreView(inner)), f"{bucket}/{prefix}".rstrip("/")
    raise ConfigError(f"{store.uri} has no pyarrow view.", hint="use `store: embedded`, `file:///path` or `s3://bucket`.")


class _StoreView(arrow_fs.FileSystemHandler):  # type: ignore[misc]
    """Forwards to an S3FileSystem that is made in each process from the store's endpoint."""

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._made: Any = None

    @property
    def _fs(self) -> Any:
        if self._made is None:
            self._made = _s3_filesystem(self._store)
        return self._made

    def __reduce__(self) -> tuple[object, ...]:
        return _StoreView, (self._store,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StoreView) and self._store.uri == other._store.uri

    def __hash__(self) -> int:
        return hash(self._store.uri)

    def get_type_name(self) -> str:
        return "foundry"

    def normalize_path(self, path: str) -> str:
        return cast(str, self._fs.normalize_path(path))

    def get_file_info(self, paths: list[str]) -> list[Any]:
        return cast("list[Any]", self._fs.get_file_info(paths))

    def get_file_info_selector(self, selector: Any) -> list[Any]:
        return cast("list[Any]", self._fs.get_file_info(selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        self._fs.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self.delete_dir_contents(path, missing_dir_ok=True)
        bucket, _, folder = path.partition("/")
        self._store.client().delete_object(Bucket=bucket, Key=f"{folder.rstrip('/')}/")

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        bucket, _, folder = path.partition("/")
        client = self._store.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{folder.rstrip('/')}/"):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=bucket, Key=item["Key"])

    def delete_root_dir_contents(self) -> None:
        raise ConfigError("the whole store is never deleted through its pyarrow view.", hint="delete a folder.")

    def delete_file(self, path: str) -> None:
        self._fs.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self._fs.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._fs.copy_file(src, dest)

    def open_input_stream(self, path: str) -> Any:
        return self._fs.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        return self._fs.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        return self._fs.open_output_stream(path, metadata=metadata)

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        return self._fs.open_append_stream(path, metadata=metadata)


def _s3_filesystem(store: S3Store) -> Any:
    client = store.client()
    scheme, _, host = client.meta.endpoint_url.partition("://")
    endpoint = store.endpoint()
    is_aws = host.endswith(".amazonaws.com")
    return arrow_fs.S3FileSystem(
        access_key=endpoint.access_key,
        secret_key=endpoint.secret_key,
        endpoint_override=None if is_aws else host,
        scheme=scheme,
        region=client.meta.region_name,
        connect_timeout=5,
        request_timeout=60,
    )
