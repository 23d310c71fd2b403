"""Who holds how much of a store, and what it costs a month (`foundry store du`): one listing, each document read once.

A run *holds* an object alone where no other run and no registered version leads to it; otherwise it *shares* it. Two stretches of one packed
object are the same object here: its bytes go when the last who needs any of it has gone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from foundry_ray.housekeeping.contents import Contents, read_contents
from foundry_ray.protocols import ArtifactStore

PRICE_PER_GB_MONTH = 0.023  # USD, the list price of S3 Standard in us-east-1 for the first 50 TB
BYTES_PER_GB = 1 << 30  # what that price list calls a GB
_KINDS = (
    (re.compile(r"artifacts/([^/]+)/.+"), r"\1 manifests"),
    (re.compile(r"checkpoints/.+"), "checkpoints"),
    (re.compile(r"studies/[^/]+/trials/.+"), "trial checkpoints"),
    (re.compile(r"studies/.+"), "journals"),
    (re.compile(r"stages/.+"), "stage results"),
    (re.compile(r"runs/.+"), "run records"),
    (re.compile(r"registry(?:-names)?/.+"), "registry"),
    (re.compile(r"targets/.+"), "distillation targets"),
    (re.compile(r"latency/.+"), "latency measurements"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindUsage:
    """What one kind of object takes."""

    kind: str
    num_objects: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunUsage:
    """What a run leads to: bytes that only it holds, and bytes that it shares with other runs or registered versions."""

    run_id: str
    num_objects: int
    own_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUsage:
    """What a store holds. `monthly_price` is in the currency of `price_per_gb_month`, for 2**30 bytes a GB, without requests and traffic."""

    store: str
    num_objects: int
    size_bytes: int
    kinds: tuple[KindUsage, ...]
    runs: tuple[RunUsage, ...]
    price_per_gb_month: float
    monthly_price: float


def measure_usage(store: ArtifactStore, *, price_per_gb_month: float = PRICE_PER_GB_MONTH) -> StoreUsage:
    """List the store and add up. Objects that cannot be read count, and lead to nothing."""
    contents = read_contents(store)
    size = sum(contents.sizes.values())
    return StoreUsage(
        store=store.uri,
        num_objects=len(contents.sizes),
        size_bytes=size,
        kinds=usage_by_kind(contents),
        runs=usage_by_run(contents),
        price_per_gb_month=price_per_gb_month,
        monthly_price=size / BYTES_PER_GB * price_per_gb_month,
    )


def usage_by_kind(contents: Contents) -> tuple[KindUsage, ...]:
    """Objects and bytes of each kind, the largest first. A blob counts for the kind of artifact that names it. Pure."""
    owners = _blob_kinds(contents)
    numbers: dict[str, list[int]] = defaultdict(list)
    for key, size in contents.sizes.items():
        numbers[_kind(key, owners)].append(size)
    found = (KindUsage(kind=kind, num_objects=len(sizes), size_bytes=sum(sizes)) for kind, sizes in numbers.items())
    return tuple(sorted(found, key=lambda one: (-one.size_bytes, one.kind)))


def usage_by_run(contents: Contents) -> tuple[RunUsage, ...]:
    """What each run holds alone and what it shares, the largest own share first. Pure."""
    runs = sorted(key for key in contents.documents if key.startswith("runs/"))
    reached = {key: contents.reached_from([key]) & contents.sizes.keys() for key in runs}
    holders: dict[str, int] = defaultdict(int)
    for keys in (*reached.values(), contents.reached_from(key for key in contents.documents if key.startswith("registry/"))):
        for key in keys:
            holders[key] += 1
    found = []
    for run, keys in reached.items():
        own = sum(contents.sizes[key] for key in keys if holders[key] == 1)
        shared = sum(contents.sizes[key] for key in keys if holders[key] > 1)
        found.append(RunUsage(run_id=run.split("/")[1], num_objects=len(keys), own_bytes=own, shared_bytes=shared))
    return tuple(sorted(found, key=lambda one: (-one.own_bytes, one.run_id)))


def _blob_kinds(contents: Contents) -> Mapping[str, str]:
    kinds: dict[str, str] = {}
    for key, document in contents.documents.items():
        if key.startswith("artifacts/"):
            kind = f"{key.split('/')[1]} files"
            for need in document.needs:
                if need.key.startswith("blobs/"):
                    kinds[need.key] = kind if kinds.get(need.key, kind) == kind else "files of several kinds"
    return kinds


def _kind(key: str, owners: Mapping[str, str]) -> str:
    if key.startswith("blobs/"):
        return owners.get(key, "files that nothing names")
    for pattern, kind in _KINDS:
        found = pattern.fullmatch(key)
        if found:
            return found.expand(kind)
    return "leases and other"
