from __future__ import annotations

from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.training.progress import Listener, StoreReporter


def test_the_driver_hears_each_epoch_once_and_warnings_once(memory_store: MemoryStore, clock: FakeClock, reporter: RecordingReporter) -> None:
    worker = StoreReporter(memory_store, "p", attempt="a", clock=clock)
    listener = Listener(memory_store, "p", reporter, num_known=1)
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
    StoreReporter(memory_store, "p", attempt="old", clock=clock).epochs([{"loss": 1.0}])
    Listener(memory_store, "p", reporter, num_known=0).listen("new")
    assert reporter.reports == []


def test_progress_costs_one_write_a_second_and_other_ranks_none(memory_store: MemoryStore, clock: FakeClock) -> None:
    store = FailingStore(memory_store)
    first, other = StoreReporter(store, "p", attempt="a", clock=clock), StoreReporter(store, None, attempt="a", clock=clock)
    for step in range(30):
        clock.advance(0.1)
        first.progress(step, 30)
        other.progress(step, 30)
    assert len(store.calls) == 3


def test_a_store_that_does_not_hear_progress_does_not_end_training(memory_store: MemoryStore, clock: FakeClock) -> None:
    store = FailingStore(memory_store)
    worker = StoreReporter(store, "p", attempt="a", clock=clock)
    store.fail("put")
    worker.progress(1, 2)
    clock.advance(2)
    worker.progress(2, 2)
    assert b'"done":2' in memory_store.get("p")
