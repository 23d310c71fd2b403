"""Who holds how much, and what it costs."""

from __future__ import annotations

import pytest

from foundry_ray.housekeeping.usage import StoreUsage, measure_usage
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stored_runs import RUN_ID, store_run
from foundry_ray.testing.stores import FailingStore, MemoryStore

OTHER = "mnist-20260101-000001-bbbb"


def _runs(usage: StoreUsage) -> dict[str, tuple[int, int]]:
    return {run.run_id: (run.own_bytes, run.shared_bytes) for run in usage.runs}


def test_everything_is_counted_once(full: MemoryStore) -> None:
    usage = measure_usage(full)
    size = sum(map(len, full.objects.values()))
    assert (usage.num_objects, usage.size_bytes) == (len(full.objects), size)
    assert sum(kind.size_bytes for kind in usage.kinds) == size
    assert sum(kind.num_objects for kind in usage.kinds) == len(full.objects)


def test_files_count_for_the_kind_of_artifact_that_names_them(full: MemoryStore) -> None:
    full.put("blobs/sha256/aa/" + "a" * 64, b"lost")
    kinds = {kind.kind: kind for kind in measure_usage(full).kinds}
    assert kinds["model files"].num_objects == 3
    assert kinds["dataset files"].num_objects == 1  # twenty small files in one pack
    assert kinds["files that nothing names"].size_bytes == 4
    assert {"checkpoints", "trial checkpoints", "journals", "stage results", "run records", "registry"} <= kinds.keys()


def test_the_largest_kind_comes_first(full: MemoryStore) -> None:
    assert measure_usage(full).kinds[0].kind == "model files"


def test_what_two_runs_lead_to_is_shared_and_the_rest_their_own(full: MemoryStore, clock: FakeClock) -> None:
    alone_own, alone_shared = _runs(measure_usage(full))[RUN_ID]
    store_run(full, clock=clock, run_id=OTHER, seed=1)
    runs = _runs(measure_usage(full))
    data = sum(len(data) for key, data in full.objects.items() if key.startswith(("stages/data/", "artifacts/dataset/")) or b"rows 3rows 4" in data)
    assert runs[RUN_ID][0] == alone_own - data
    assert runs[RUN_ID][1] >= alone_shared + data
    assert runs.keys() == {RUN_ID, OTHER}


def test_what_a_version_holds_is_no_runs_own(full: MemoryStore) -> None:
    own, shared = _runs(measure_usage(full))[RUN_ID]
    assert shared > 300_000  # the student's files, which mnist:1 needs too
    full.delete(*[key for key in full.objects if key.startswith("registry/")])
    assert _runs(measure_usage(full))[RUN_ID] == (own + shared, 0)


def test_the_price_follows_from_the_bytes(full: MemoryStore) -> None:
    usage = measure_usage(full, price_per_gb_month=1024.0)
    assert usage.monthly_price == pytest.approx(usage.size_bytes / 2**20)


def test_the_store_is_listed_once_and_each_document_read_once(full: MemoryStore) -> None:
    watched = FailingStore(full)
    measure_usage(watched)
    verbs = [verb for verb, _ in watched.calls]
    read = [key for verb, key in watched.calls if verb == "get"]
    assert verbs.count("list") == 1
    assert len(read) == len(set(read))
    assert not any(key.startswith("blobs/") for key in read)


def test_an_empty_store_costs_nothing(store: MemoryStore) -> None:
    usage = measure_usage(store)
    assert (usage.num_objects, usage.kinds, usage.runs, usage.monthly_price) == (0, (), (), 0.0)
