"""A user of a store who publishes, promotes and reads in a loop, and writes down what the store acknowledged, until it is killed.

    python -m foundry_ray.testing.store_user URI FOLDER SEED

Each line of FOLDER/acknowledged.jsonl is durable before the next operation begins. Started again, it goes on after the last line. All contents
follow from the seed, so that whoever reads can tell what is right without asking the store. Nothing is cached: every read asks the store.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from foundry_ray import registry
from foundry_ray.artifacts import open_store
from foundry_ray.artifacts.manifests import fetch, publish
from foundry_ray.clock import SystemClock
from foundry_ray.config import StoreConfig
from foundry_ray.errors import ArtifactCorrupt
from foundry_ray.protocols import ArtifactStore
from foundry_ray.testing.samples import model
from foundry_ray.types import ArtifactRef

NAME = "victim"
BIG_BYTES = 40 << 20
_CREATED_AT = "2026-01-01T00:00:00+00:00"


def contents(seed: int, number: int) -> Mapping[str, bytes]:
    """The files of artifact `number`: one small one, forty small ones, or one that goes up in parts."""
    source = random.Random(f"{seed} {number}")
    match number % 6:
        case 1 | 4:
            return {f"records/{index:03d}": source.randbytes(source.randrange(1, 4096)) for index in range(40)}
        case 2:
            return {"big": source.randbytes(BIG_BYTES), "small": source.randbytes(100)}
        case _:
            return {"small": source.randbytes(source.randrange(1, 10_000))}


def digests_of(files: Mapping[str, bytes]) -> Mapping[str, str]:
    """The sha256 (hex) of each file."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def read(store: ArtifactStore, key: str, folder: Path) -> Mapping[str, str]:
    """What an artifact holds, read into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in fetch(store, key, folder).items()}


class _User:
    def __init__(self, store: ArtifactStore, folder: Path, seed: int) -> None:
        self._store = store
        self._folder = folder
        self._seed = seed
        self._path = folder / "acknowledged.jsonl"
        self._done = [json.loads(line) for line in self._path.read_text().splitlines()] if self._path.exists() else []

    def run(self) -> None:
        published = [line for line in self._done if line["did"] == "publish"]
        number = len(published)
        while True:
            files = contents(self._seed, number)
            reference = publish(self._store, kind="model", files=files, meta={"number": number}, created_at=_CREATED_AT)
            published.append(self._write(did="publish", number=number, key=reference.key, digests=digests_of(files)))
            self._write(did="promote", number=number, version=self._promote(number, reference))
            self._read(random.Random(f"read {self._seed} {number}").choice(published))
            number += 1

    def _promote(self, number: int, reference: ArtifactRef) -> int:
        student = replace(model(), artifact=reference)
        entry = registry.register(
            self._store, name=NAME, model=student, report_key=f"reports/{number}", passed=True, run_id=f"run-{number}", clock=SystemClock()
        )
        return entry.version

    def _read(self, line: Mapping[str, object]) -> None:
        try:
            is_right = read(self._store, str(line["key"]), self._folder / "read") == line["digests"]
        except ArtifactCorrupt as error:
            self._write(did="refuse", number=line["number"], why=error.message)
        else:
            self._write(did="read" if is_right else "corrupt", number=line["number"])

    def _write(self, **line: object) -> dict[str, object]:
        with self._path.open("a") as log:
            log.write(json.dumps(line) + "\n")
            log.flush()
            os.fsync(log.fileno())
        return line


if __name__ == "__main__":
    uri, where, text = sys.argv[1:]
    _User(open_store(StoreConfig(uri=uri, cache_bytes=0)), Path(where), int(text)).run()
