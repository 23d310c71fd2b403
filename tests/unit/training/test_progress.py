from __future__ import annotations

import threading

from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.training.progress import Beat, Listener, StoreReporter, start_metrics


def worker_at(store: MemoryStore | FailingStore, attempt: str = "a") -> StoreReporter:
    return StoreReporter(store, "k/p", attempt=attempt)


def test_the_driver_hears_each_epoch_point_and_warning_once(memory_store: MemoryStore, reporter: RecordingReporter) -> None:
    worker, listener = worker_at(memory_store), Listener(memory_store, "k/p", reporter, num_known=1)
    listener.listen("a")
    worker.warn("beware")
    worker.progress(3, 10, "epoch 2/5")
    worker.metrics(3, {"loss": 2.5, "grad_norm": float("nan")})
    worker.epochs([{"loss": 3.0}, {"loss": 2.0}])
    for _ in range(2):
        worker.tick()
        listener.listen("a")
    worker.report(3, {"loss": 1.0})
    worker.tick()
    listener.listen("a")
    listener.tell([{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}])
    assert reporter.reports == [(2, {"loss": 2.0}), (3, {"loss": 1.0})]
    assert reporter.points == [(3, {"loss": 2.5})]
    assert reporter.warnings == ["beware"]
    assert reporter.progresses[-1] == (3, 10, "epoch 2/5")


def test_steps_that_are_made_again_after_a_restart_are_told_once(memory_store: MemoryStore, reporter: RecordingReporter) -> None:
    listener = Listener(memory_store, "k/p", reporter, num_known=0)
    for attempt, steps in (("a", (1, 2, 3)), ("b", (2, 3, 4))):
        worker = worker_at(memory_store, attempt)
        for step in steps:
            worker.metrics(step, {"loss": float(step)})
        worker.tick()
        listener.listen(attempt)
    assert [step for step, _ in reporter.points] == [1, 2, 3, 4]


def test_a_start_is_told_with_the_seconds_of_its_phases_and_where_it_runs(memory_store: MemoryStore, reporter: RecordingReporter) -> None:
    worker, listener = worker_at(memory_store), Listener(memory_store, "k/p", reporter, num_known=0)
    worker.placed(["node"])
    worker.tick()
    listener.listen("a")
    assert (listener.nodes, listener.has_started) == (("node",), False)
    worker.started(40, {"group": 6.0, "model": 0.5})
    worker.tick()
    listener.listen("a")
    listener.listen("a")
    assert listener.has_started
    assert reporter.points == [(40, {"start_group_s": 6.0, "start_model_s": 0.5, "start_s": 6.5})]
    assert start_metrics({}) == {"start_s": 0}


def test_of_very_many_epochs_the_last_are_told_and_the_others_by_the_checkpoint(memory_store: MemoryStore, reporter: RecordingReporter) -> None:
    worker, listener = worker_at(memory_store), Listener(memory_store, "k/p", reporter, num_known=0)
    curve = [{"loss": float(epoch)} for epoch in range(1, 201)]
    worker.epochs(curve)
    worker.tick()
    assert len(memory_store.get("k/p")) < 60 * 20 + 400
    listener.listen("a")
    assert reporter.reports == [], "the first 140 would be told after the others"
    listener.tell(curve)
    assert [epoch for epoch, _ in reporter.reports] == list(range(1, 201))


def test_words_of_a_dead_worker_group_are_not_heard(memory_store: MemoryStore, reporter: RecordingReporter) -> None:
    old = worker_at(memory_store, "old")
    old.epochs([{"loss": 1.0}])
    old.tick()
    Listener(memory_store, "k/p", reporter, num_known=0).listen("new")
    assert reporter.reports == []


def test_only_what_is_new_is_written_only_when_it_is_time_and_by_one_rank(memory_store: MemoryStore) -> None:
    store = FailingStore(memory_store)
    first, other = worker_at(store), StoreReporter(store, None, attempt="a")
    for step in range(30):
        first.progress(step, 30)
        other.progress(step, 30)
    assert store.calls == []
    for worker in (first, other, first, other):
        worker.tick()
    assert [verb for verb, _ in store.calls].count("put") == 1


def test_a_store_that_does_not_hear_progress_does_not_end_training_and_hears_it_later(memory_store: MemoryStore) -> None:
    store = FailingStore(memory_store)
    worker = worker_at(store)
    store.fail("put")
    worker.progress(2, 2)
    worker.tick()
    worker.tick()
    assert b'"done":2' in memory_store.get("k/p")


def test_the_last_words_are_said_when_training_ends() -> None:
    said = threading.Event()
    with Beat(said.set, name="beat"):
        assert not said.is_set()
    assert said.is_set()
