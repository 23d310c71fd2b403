from __future__ import annotations

import pytest

from foundry_ray.errors import Preempted
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.training.progress import Listener, StoreReporter


def test_the_driver_hears_each_epoch_once_and_warnings_once(memory_store: MemoryStore, clock: FakeClock, reporter: RecordingReporter) -> None:
    worker = StoreReporter(memory_store, "k/p", attempt="a", clock=clock)
    listener = Listener(memory_store, "k/p", reporter, num_known=1)
    listener.listen("a")
    worker.warn("beware")
    worker.progress(3, 10, "epoch 2/5")
    worker.epochs([{"loss": 3.0}, {"loss": 2.0}])
    listener.listen("a")
    worker.epochs([{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}])
    listener.listen("a")
    listener.tell([{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}])
    assert reporter.reports == [(2, {"loss": 2.0}), (3, {"loss": 1.0})]
    assert reporter.warnings == ["beware"]
    assert reporter.progresses[-1] == (3, 10, "epoch 2/5")


def test_words_of_a_dead_worker_group_are_not_heard(memory_store: MemoryStore, clock: FakeClock, reporter: RecordingReporter) -> None:
    StoreReporter(memory_store, "k/p", attempt="old", clock=clock).epochs([{"loss": 1.0}])
    Listener(memory_store, "k/p", reporter, num_known=0).listen("new")
    assert reporter.reports == []


def test_progress_costs_one_write_a_second_and_other_ranks_none(memory_store: MemoryStore, clock: FakeClock) -> None:
    store = FailingStore(memory_store)
    first, other = StoreReporter(store, "k/p", attempt="a", clock=clock), StoreReporter(store, None, attempt="a", clock=clock)
    for step in range(30):
        clock.advance(0.1)
        first.progress(step, 30)
        other.progress(step, 30)
    assert [verb for verb, _ in store.calls].count("put") == 3


def test_a_store_that_does_not_hear_progress_does_not_end_training(memory_store: MemoryStore, clock: FakeClock) -> None:
    store = FailingStore(memory_store)
    worker = StoreReporter(store, "k/p", attempt="a", clock=clock)
    store.fail("put")
    worker.progress(1, 2)
    clock.advance(2)
    worker.progress(2, 2)
    assert b'"done":2' in memory_store.get("k/p")


def test_a_driver_that_leaves_stops_its_own_workers_only(memory_store: MemoryStore, clock: FakeClock, reporter: RecordingReporter) -> None:
    mine, other = (StoreReporter(memory_store, "checkpoints/k/progress.json", attempt=name, clock=clock) for name in ("mine", "other"))
    Listener(memory_store, "checkpoints/k/progress.json", reporter, num_known=0).stop("mine")
    other.progress(1, 2)
    with pytest.raises(Preempted, match="the driver has left"):
        mine.progress(1, 2)
    assert list(memory_store.objects) == ["checkpoints/k/progress.json"]


def test_a_store_that_does_not_answer_does_not_hide_why_the_driver_leaves(memory_store: MemoryStore, reporter: RecordingReporter) -> None:
    store = FailingStore(memory_store)
    store.fail("put")
    Listener(store, "k/p", reporter, num_known=0).stop("mine")
    assert store.calls[-1][0] == "put"
