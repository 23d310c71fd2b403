from __future__ import annotations

import pytest

from foundry_ray.errors import ArtifactCorrupt, Conflict, StoreUnavailable
from foundry_ray.search.events import Event, Job
from foundry_ray.search.journal import Journal
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.types import from_json, to_json

ASK = Event(kind="ask", number=0, params={"lr": 0.1, "bits": 8}, attrs={"generation": 2}, seed=5)
RUNG = Event(kind="rung", number=0, epoch=1, values={"accuracy": 0.9}, curve=({"epoch": 1.0},), checkpoint="x", duration_s=1.5)


def _open(store: MemoryStore | FailingStore, driver: str = "a") -> tuple[Journal, list[Event]]:
    journal = Journal(store, "studies/s/journal", driver=driver)
    return journal, journal.open()


def test_events_come_back_as_they_were(memory_store: MemoryStore) -> None:
    journal, _ = _open(memory_store)
    journal.append(ASK)
    journal.append(RUNG)
    journal.commit()
    assert _open(memory_store, "b")[1] == [Event(kind="open", driver="a"), ASK, RUNG]


def test_a_group_is_one_object(memory_store: MemoryStore) -> None:
    journal, _ = _open(memory_store)
    journal.append(ASK)
    journal.append(RUNG)
    journal.commit()
    journal.commit()
    assert sorted(memory_store.objects) == ["studies/s/journal/00000000", "studies/s/journal/00000001"]


def test_what_was_not_committed_is_not_there(memory_store: MemoryStore) -> None:
    journal, _ = _open(memory_store)
    journal.append(ASK)
    assert _open(memory_store, "b")[1] == [Event(kind="open", driver="a")]


def test_an_outage_loses_nothing(memory_store: MemoryStore) -> None:
    store = FailingStore(memory_store)
    journal, _ = _open(store)
    journal.append(ASK)
    store.fail("put")
    with pytest.raises(StoreUnavailable):
        journal.commit()
    journal.commit()
    assert ASK in _open(memory_store, "b")[1]


class _LostAnswer(MemoryStore):
    """Writes, and then says that somebody else did: a retry after an answer that got lost."""

    def put(self, key: str, source: object, *, if_absent: bool = False) -> None:
        super().put(key, source)  # type: ignore[arg-type]
        raise Conflict(f"{key} exists already.", hint="", key=key)


def test_a_repeated_write_of_its_own_is_no_conflict() -> None:
    store = _LostAnswer()
    _open(store)
    assert len(store.objects) == 1


def test_a_missing_segment_is_an_error(memory_store: MemoryStore) -> None:
    journal, _ = _open(memory_store)
    journal.append(ASK)
    journal.commit()
    memory_store.delete("studies/s/journal/00000000")
    with pytest.raises(ArtifactCorrupt, match="wanted studies/s/journal/00000000"):
        _open(memory_store, "b")


def test_an_unreadable_segment_is_an_error(memory_store: MemoryStore) -> None:
    memory_store.put("studies/s/journal/00000000", b'{"events": [{"kind": "ask", "number": "x"}]}')
    with pytest.raises(ArtifactCorrupt, match="studies/s/journal/00000000"):
        _open(memory_store)


def test_a_job_survives_its_trip_to_an_actor() -> None:
    job = Job(
        number=3, params={"lr": 0.1, "bits": 8, "on": True}, seed=1, rung=1, from_epoch=1, to_epoch=3, checkpoint="x", known={"num_params": 3.0}
    )
    assert from_json(Job, to_json(job)) == job


def test_a_segment_that_is_nested_without_end_is_corrupt_and_named(store: MemoryStore) -> None:
    store.put("studies/s/journal/00000000", b"[" * 100_000)
    with pytest.raises(ArtifactCorrupt, match="studies/s/journal/00000000 is nested deeper than 100 levels"):
        Journal(store, "studies/s/journal", driver="a").open()
