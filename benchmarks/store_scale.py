"""What a store with 100,000 artifacts costs where people wait: opening it, finding a run, resolving an alias, planning a collection.

python -m benchmarks.store_scale            100,000 artifacts beside 100, on the embedded server (about 20 minutes, most of it filling)
python -m benchmarks.store_scale --num 5000

Filling resumes where it was interrupted. Requests are counted at the HTTP client; times are medians of 7, the small store and the large one in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.record import Claim, work_folder
from foundry_ray import registry, runlog
from foundry_ray.artifacts import embedded, open_store
from foundry_ray.artifacts.manifests import publish, read_file
from foundry_ray.clock import SystemClock
from foundry_ray.config import LimitsConfig, RetentionConfig, Settings
from foundry_ray.housekeeping.gc import Collector
from foundry_ray.protocols import ArtifactStore
from foundry_ray.runlog import StageResult
from foundry_ray.testing import samples
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import RunRecord, RunStatus, StageRecord, StageStatus

_PER_RUN = 100
_KEPT_PER_RUN = 90
_NUM_THREADS = 12
_REPEATS = 7
_NUM_VERSIONS = 50
_NAME = "mnist"
_CREATED_AT = "2026-01-01T00:00:00+00:00"


class _Requests:
    """Counts what this process asks of S3 servers."""

    def __init__(self, *stores: ArtifactStore) -> None:
        self.count = 0
        for store in stores:
            while hasattr(store, "inner"):
                store = store.inner
            store.client().meta.events.register("before-send.s3", self._note)  # type: ignore[attr-defined]

    def _note(self, **_: object) -> None:
        self.count += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """Of one operation on one store: median seconds and requests."""

    seconds: float
    requests: float


def main() -> None:
    """Fill a small and a large store, measure both in turn, write the claims."""
    options = argparse.ArgumentParser()
    options.add_argument("--num", type=int, default=100_000)
    num = options.parse_known_args()[0].num  # beside other benchmarks the arguments are theirs
    with _served(num) as (small, large):
        for settings, size in ((small, _PER_RUN), (large, num)):
            _fill(open_store("embedded", settings=settings), size)
        _measure(small, large, num)


@contextmanager
def _served(num: int) -> Iterator[list[Settings]]:
    folder = work_folder("store_scale")
    both = [Settings(home=folder / name, store_retry_s=30.0) for name in ("small", f"large-{num}")]
    try:
        for settings in both:
            embedded.serve(settings)
        yield both
    finally:
        for settings in both:
            embedded.stop(settings)


def _fill(store: ArtifactStore, num: int) -> None:
    """`num` artifacts of 1 KB in runs of a hundred; of each run ten are nobody's. Runs that are there are not made again."""
    began_s, there = time.monotonic(), set(runlog.list_runs(store))
    missing = [number for number in range(num // _PER_RUN) if _run_id(number) not in there]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for done, _ in enumerate(pool.map(partial(_fill_run, store), missing), start=1):
            if done % 50 == 0:
                print(f"{done * _PER_RUN} artifacts in {time.monotonic() - began_s:.0f} s", flush=True)
    for number in range(len(registry.versions(store, _NAME)) if _NAME in registry.names(store) else 0, _NUM_VERSIONS):
        ref = publish(store, kind="model", files={"version": b"%d" % number}, created_at=_CREATED_AT)
        model = replace(samples.model(), artifact=ref)
        registry.register(store, name=_NAME, model=model, report_key=f"reports/{number}", passed=True, run_id="", clock=SystemClock())


def _fill_run(store: ArtifactStore, number: int) -> None:
    made = MemoryStore()  # what publishing writes, without what it asks: filling is not what is measured
    keys = [
        publish(made, kind="record", files={"data": b"%d %d " % (number, index) * 100}, created_at=_CREATED_AT, num_threads=1).key
        for index in range(_PER_RUN)
    ]
    for object_key, data in made.objects.items():
        store.put(object_key, data)
    key = f"{number:032x}"
    done = StageResult(outputs=list(keys[:_KEPT_PER_RUN]), run_id=_run_id(number), created_at=_CREATED_AT, duration_s=1.0, versions={})
    runlog.commit_result(store, "student", key, done)
    stage = StageRecord(name="student", key=key, status=StageStatus.DONE)
    record = RunRecord(run_id=_run_id(number), pipeline="scale", config={}, versions={}, stages=(stage,), status=RunStatus.DONE)
    runlog.save_run(store, record)


def _run_id(number: int) -> str:
    return f"scale-20260101-000000-{number:04x}"


def _operations(settings: Settings, store: ArtifactStore) -> dict[str, Callable[[], object]]:
    run_id = _run_id(0)
    key = publish(store, kind="record", files={"data": b"0 0 " * 100}, created_at=_CREATED_AT).key
    fresh = iter(range(time.time_ns(), 1 << 63))
    return {
        "open": lambda: open_store("embedded", settings=settings),
        "run_by_id": lambda: runlog.load_run(store, run_id),
        "list_runs": lambda: list(runlog.list_runs(store)),
        "resolve_alias": lambda: registry.resolve(store, f"{_NAME}@champion"),
        "read_artifact": lambda: read_file(store, key, "data"),
        "publish": lambda: publish(store, kind="record", files={"data": b"%d" % next(fresh)}, created_at=_CREATED_AT),
    }


def _measure(small: Settings, large: Settings, num: int) -> None:
    stores = [open_store("embedded", settings=settings) for settings in (small, large)]
    requests = _Requests(*stores)
    sides = [_operations(settings, store) for settings, store in zip((small, large), stores, strict=True)]
    costs = {name: _pair(sides[0][name], sides[1][name], requests) for name in sides[0]}
    peers: dict[str, float] = {}
    for name, (few, many) in costs.items():
        print(f"{name}: {few.requests:g} requests, {few.seconds:.4f} s; with {num:,}: {many.requests:g} requests, {many.seconds:.4f} s", flush=True)
        peers |= {f"{name}_requests": many.requests, f"{name}_s": many.seconds, f"{name}_s_at_{_PER_RUN}": few.seconds}
    hot = {name: many.seconds / few.seconds for name, (few, many) in costs.items() if name != "list_runs"}
    more = {name: many.requests - few.requests for name, (few, many) in costs.items() if name != "list_runs"}
    what = f"open, run by id, alias, read, publish: the slowest with {num:,} artifacts, as a multiple of its time with {_PER_RUN}"
    Claim(name="scale_hot_path_ratio", claim=what, value=max(hot.values()), unit="x", runs=[hot], peers=peers).write()
    what = f"open, run by id, alias, read, publish: most requests that {num:,} artifacts add to any of them"
    Claim(name="scale_hot_path_added_requests", claim=what, value=max(more.values()), unit="requests", runs=[more], peers=peers).write()
    plan = _once(lambda: _collector(stores[1]).look(), requests)
    what = f"planning a collection of {num:,} artifacts"
    Claim(name="scale_plan_gc_s", claim=what, value=plan.seconds, unit="s", runs=[plan.seconds], peers={"requests": plan.requests}).write()


def _collector(store: ArtifactStore) -> Collector:
    return Collector(store=store, retention=RetentionConfig(), grace_s=0.0, clock=SystemClock(), reporter=RecordingReporter(), limits=LimitsConfig())


def _pair(few: Callable[[], object], many: Callable[[], object], requests: _Requests) -> tuple[_Cost, _Cost]:
    runs = [(_once(few, requests), _once(many, requests)) for _ in range(_REPEATS + 1)][1:]
    return tuple(_median(side) for side in zip(*runs, strict=True))  # type: ignore[return-value]


def _median(costs: tuple[_Cost, ...]) -> _Cost:
    return _Cost(seconds=statistics.median(cost.seconds for cost in costs), requests=statistics.median(cost.requests for cost in costs))


def _once(work: Callable[[], object], requests: _Requests) -> _Cost:
    before, began_s = requests.count, time.perf_counter()
    work()
    return _Cost(seconds=time.perf_counter() - began_s, requests=requests.count - before)


if __name__ == "__main__":
    main()
