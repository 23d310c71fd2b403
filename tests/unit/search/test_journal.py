from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from foundry_ray.errors import ArtifactCorrupt, Conflict, StoreUnavailable
from foundry_ray.protocols import ArtifactStore
from foundry_ray.search import segments
from foundry_ray.search.events import Event, Job
from foundry_ray.search.journal import Journal
from foundry_ray.testing.stores import FailingStore, Killed, MemoryStore, MortalStore
from foundry_ray.types import from_json, to_json

PREFIX = "studies/s/journal"
ASK = Event(kind="ask", number=0, params={"lr": 0.1, "bits": 8}, attrs={"generation": 2}, seed=5)
RUNG = Event(kind="rung", number=0, epoch=1, values={"accuracy": 0.9}, curve=({"epoch": 1.0},), checkpoint="x", duration_s=1.5)


def _open(store: ArtifactStore, driver: str = "a", *, compact_after: int = 512) -> tuple[Journal, list[Event]]:
    journal = Journal(store, PREFIX, driver=driver, compact_after=compact_after)
    return journal, journal.open()


def _events(store: ArtifactStore) -> list[Event]:
    """Without those of the drivers."""
    return [event for event in segments.read(store, PREFIX).events if event.kind != "open"]


def _write(store: ArtifactStore, num_groups: int, *, driver: str = "a", start: int = 0, compact_after: int = 8) -> None:
    journal, _ = _open(store, driver, compact_after=compact_after)
    for number in range(start, start + num_groups):
        journal.append(Event(kind="ask", number=number))
        journal.commit()
    journal.close()


def test_events_come_back_as_they_were(memory_store: MemoryStore) -> None:
    journal, _ = _open(memory_store)
    journal.append(ASK)
    journal.append(RUNG)
    journal.commit()
    assert _open(memory_store, "b")[1] == [Event(kind="open", driver="a"), ASK, RUNG, Event(kind="open", driver="b")]


def test_a_new_journal_begins_with_what_it_is_given_and_an_old_one_does_not(memory_store: MemoryStore) -> None:
    suggest = Event(kind="suggest", params={"lr": 0.1})
    assert Journal(memory_store, PREFIX, driver="a").open(lambda: [suggest])[1:] == [suggest]
    assert len(memory_store.objects) == 1, "one segment: it happens whole or not at all"
    assert Journal(memory_store, PREFIX, driver="b").open(lambda: [suggest]).count(suggest) == 1


def test_a_group_is_one_object(memory_store: MemoryStore) -> None:
    journal, _ = _open(memory_store)
    journal.append(ASK)
    journal.append(RUNG)
    journal.commit()
    journal.commit()
    assert sorted(memory_store.objects) == [f"{PREFIX}/00000000", f"{PREFIX}/00000001"]


def test_what_was_not_committed_is_not_there(memory_store: MemoryStore) -> None:
    journal, _ = _open(memory_store)
    journal.append(ASK)
    assert _open(memory_store, "b")[1] == [Event(kind="open", driver="a"), Event(kind="open", driver="b")]


def test_an_outage_loses_nothing(memory_store: MemoryStore) -> None:
    store = FailingStore(memory_store)
    journal, _ = _open(store)
    journal.append(ASK)
    store.fail("put")
    with pytest.raises(StoreUnavailable):
        journal.commit()
    journal.append(RUNG)
    journal.commit()
    assert _events(memory_store) == [ASK, RUNG]


class _SlowStore(MemoryStore):
    """Answers a write only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()
        self.answers.set()

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        assert self.answers.wait(60)
        super().put(key, source, if_absent=if_absent)


def test_a_silent_store_holds_nobody_up_who_does_not_want_to_wait() -> None:
    store = _SlowStore()
    journal, _ = _open(store)
    store.answers.clear()
    journal.append(ASK)
    assert not journal.commit(wait_s=0.0)
    journal.append(RUNG)
    assert not journal.commit(wait_s=0.0)
    store.answers.set()
    assert journal.commit()
    assert _events(store) == [ASK, RUNG]


class _LostAnswer(MemoryStore):
    """Writes, and then does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.num_lost = 0

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        super().put(key, source, if_absent=if_absent)
        if self.num_lost:
            self.num_lost -= 1
            raise StoreUnavailable(f"{key}: no answer.", hint="", uri=self.uri)


def test_a_group_whose_answer_was_lost_is_repeated_as_it_was_before_anything_else() -> None:
    store = _LostAnswer()
    journal, _ = _open(store)
    store.num_lost = 1
    journal.append(ASK)
    with pytest.raises(StoreUnavailable):
        journal.commit()
    journal.append(RUNG)
    journal.commit()
    assert _events(store) == [ASK, RUNG]


def test_what_an_event_frees_goes_after_it_is_durable_and_not_before(memory_store: MemoryStore) -> None:
    store = FailingStore(memory_store)
    memory_store.put("checkpoint", b"1")
    journal, _ = _open(store)
    journal.append(RUNG, frees=["checkpoint"])
    store.fail("put")
    with pytest.raises(StoreUnavailable):
        journal.commit()
    assert "checkpoint" in memory_store.objects
    journal.commit()
    assert "checkpoint" not in memory_store.objects


def test_a_second_driver_fences_the_first(memory_store: MemoryStore) -> None:
    first, _ = _open(memory_store)
    _open(memory_store, "b")
    first.append(ASK)
    with pytest.raises(Conflict, match="another process took over this study") as caught:
        first.commit()
    assert caught.value.exit_code == 5


def test_many_segments_become_one_snapshot_and_what_it_holds_goes(memory_store: MemoryStore) -> None:
    _write(memory_store, 40)
    assert [event.number for event in _events(memory_store)] == list(range(40))
    names = sorted(key.removeprefix(PREFIX) for key in memory_store.objects)
    assert sum(name.startswith("-snapshots/") for name in names) == 1
    assert len(names) <= 12
    assert "/00000000" in names, "a driver may still sleep before it"


def test_a_driver_that_slept_through_a_compaction_is_fenced_all_the_same(memory_store: MemoryStore) -> None:
    asleep, _ = _open(memory_store)
    for driver in ("b", "c"):
        _write(memory_store, 20, driver=driver)
    asleep.append(ASK)
    with pytest.raises(Conflict):
        asleep.commit()


def test_a_later_driver_goes_on_from_a_snapshot(memory_store: MemoryStore) -> None:
    _write(memory_store, 13)
    _write(memory_store, 13, driver="b", start=13)
    assert [event.number for event in _events(memory_store)] == list(range(26))


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_process_that_dies_at_any_operation_leaves_every_acknowledged_event(is_done: bool) -> None:
    for dies_at in range(1, 400):
        inner, acknowledged = MemoryStore(), 0
        store = MortalStore(inner, dies_at=dies_at, is_done=is_done)
        try:
            journal, _ = _open(store, compact_after=4)
            for number in range(30):
                journal.append(Event(kind="ask", number=number))
                journal.commit()
                acknowledged = number + 1
        except Killed:
            pass
        else:
            return
        found = [event.number for event in _events(inner)]
        assert found in (list(range(acknowledged)), list(range(acknowledged + 1))), f"died at operation {dies_at}"
        _write(inner, 9, driver="b", start=len(found), compact_after=4)
        assert [event.number for event in _events(inner)] == list(range(len(found) + 9))
        assert not segments.read(inner, PREFIX).garbage, "the second driver removes what the first one left"
    raise AssertionError("it never lived to the end")


class _Moving(MemoryStore):
    """Something happens between a reader's listing and its reading."""

    between: Callable[[], None] | None = None

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        between, self.between = self.between, None
        if between is not None:
            between()
        return super().get(key, start=start, size=size)


def test_a_journal_is_read_right_while_another_process_compacts_it() -> None:
    store = _Moving()
    _write(store, 6, compact_after=100)
    store.between = lambda: _write(store, 10, driver="b", start=6, compact_after=4)
    assert [event.number for event in _events(store)] == list(range(16))


class _Flipping(MemoryStore):
    """Snapshots are not stored as they were sent."""

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        data = source if isinstance(source, bytes) else source.read_bytes()
        super().put(key, data[:-1] if "-snapshots/" in key else data, if_absent=if_absent)


def test_a_snapshot_that_was_not_stored_as_it_was_sent_replaces_nothing() -> None:
    store = _Flipping()
    _write(store, 20)
    assert [event.number for event in _events(store)] == list(range(20))
    assert not any("-snapshots/" in key for key in store.objects)


def test_a_torn_snapshot_of_a_killed_process_is_passed_over(memory_store: MemoryStore) -> None:
    _write(memory_store, 5)
    memory_store.put(f"{PREFIX}-snapshots/00000004", b'{"events": [')
    assert [event.number for event in _events(memory_store)] == list(range(5))


def test_a_missing_segment_is_an_error(memory_store: MemoryStore) -> None:
    journal, _ = _open(memory_store)
    journal.append(ASK)
    journal.commit()
    memory_store.delete(f"{PREFIX}/00000000")
    with pytest.raises(ArtifactCorrupt, match="wanted studies/s/journal/00000000"):
        _open(memory_store, "b")


def test_an_unreadable_segment_is_an_error(memory_store: MemoryStore) -> None:
    memory_store.put(f"{PREFIX}/00000000", b'{"events": [{"kind": "ask", "number": "x"}]}')
    with pytest.raises(ArtifactCorrupt, match="studies/s/journal/00000000"):
        _open(memory_store)


def test_a_segment_that_is_nested_without_end_is_corrupt_and_named(store: MemoryStore) -> None:
    store.put(f"{PREFIX}/00000000", b"[" * 100_000)
    with pytest.raises(ArtifactCorrupt, match="studies/s/journal/00000000 is nested deeper than 100 levels"):
        _open(store)


def test_a_job_survives_its_trip_to_an_actor() -> None:
    job = Job(
        number=3,
        params={"lr": 0.1, "bits": 8, "on": True},
        seed=1,
        rung=1,
        from_epoch=1,
        to_epoch=3,
        checkpoint="x",
        known={"num_params": 3.0},
        later=(9, 27),
    )
    assert from_json(Job, to_json(job)) == job
