"""Patience has a budget, a rising wait and no memory of other errors."""

from __future__ import annotations

import logging
import pickle

import pytest

from foundry_ray.artifacts.retrying import Retrying
from foundry_ray.errors import ArtifactNotFound, Conflict, StoreUnavailable
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stores import FailingStore, MemoryStore


@pytest.fixture
def failing(memory_store: MemoryStore) -> FailingStore:
    return FailingStore(memory_store)


def _retrying(failing: FailingStore, clock: FakeClock, **options: object) -> Retrying:
    return Retrying(failing, clock=clock, budget_s=30.0, seed=0, **options)


@pytest.mark.parametrize("verb", ["put", "get", "stat", "delete", "list"])
def test_a_short_outage_goes_unnoticed(verb: str, failing: FailingStore, clock: FakeClock) -> None:
    store = _retrying(failing, clock)
    store.put("a", b"1")
    failing.fail(verb, times=3)
    actions = {"put": lambda: store.put("a", b"1"), "get": lambda: store.get("a"), "stat": lambda: store.stat("a")}
    actions |= {"delete": lambda: store.delete("a"), "list": lambda: list(store.list(""))}
    actions[verb]()
    assert len(clock.sleeps) == 3


def test_waits_double_up_to_five_seconds_with_jitter(failing: FailingStore, clock: FakeClock) -> None:
    failing.fail("get", times=100)
    with pytest.raises(StoreUnavailable):
        _retrying(failing, clock).get("a")
    limits = [min(5.0, 0.2 * 2**attempt) for attempt in range(len(clock.sleeps))]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(clock.sleeps, limits, strict=True))
    assert len({round(wait / limit, 6) for wait, limit in zip(clock.sleeps, limits, strict=True)}) > 3


def test_the_budget_ends_it_and_is_named(failing: FailingStore, clock: FakeClock) -> None:
    failing.fail("get", times=100)
    with pytest.raises(StoreUnavailable, match=r"did not answer get a\. Gave up after \d+ attempts in \d+\.\d s; FOUNDRY_STORE_RETRY_S allows 30 s"):
        _retrying(failing, clock).get("a")
    assert 20 < sum(clock.sleeps) <= 30


def test_what_will_not_pass_is_not_repeated(failing: FailingStore, clock: FakeClock) -> None:
    with pytest.raises(ArtifactNotFound):
        _retrying(failing, clock).get("none")
    assert clock.sleeps == []


class _LosesTheAnswer(MemoryStore):
    """Writes, and then fails to say so, once."""

    def __init__(self) -> None:
        super().__init__()
        self.is_lost = True

    def put(self, key: str, source: bytes, *, if_absent: bool = False) -> None:
        super().put(key, source, if_absent=if_absent)
        if self.is_lost:
            self.is_lost = False
            raise StoreUnavailable("the answer was lost.", hint="", uri=self.uri)


def test_our_own_create_whose_answer_was_lost_is_no_conflict(clock: FakeClock) -> None:
    store = Retrying(_LosesTheAnswer(), clock=clock, budget_s=30.0)
    store.put("a", b"mine", if_absent=True)
    with pytest.raises(Conflict):
        store.put("a", b"mine", if_absent=True)


def test_another_ones_create_is_a_conflict_also_on_the_second_attempt(failing: FailingStore, clock: FakeClock) -> None:
    store = _retrying(failing, clock)
    store.put("a", b"theirs")
    failing.fail("put")
    with pytest.raises(Conflict):
        store.put("a", b"mine", if_absent=True)


class _StopsMidway(MemoryStore):
    """Its first listing breaks off after two keys."""

    num_lists = 0

    def list(self, prefix: str):  # type: ignore[no-untyped-def]
        self.num_lists += 1
        for position, info in enumerate(super().list(prefix)):
            if self.num_lists == 1 and position == 2:
                raise StoreUnavailable("the listing broke off.", hint="", uri=self.uri)
            yield info


def test_a_listing_that_breaks_off_goes_on_without_repeating_a_key(clock: FakeClock) -> None:
    store = Retrying(_StopsMidway(), clock=clock, budget_s=30.0)
    for key in "abcd":
        store.put(key, b"1")
    assert [info.key for info in store.list("")] == ["a", "b", "c", "d"]


def test_a_dead_server_is_revived_between_attempts(failing: FailingStore, clock: FakeClock) -> None:
    revived: list[int] = []
    failing.fail("stat", times=2)
    _retrying(failing, clock, revive=lambda: revived.append(1)).stat("a")
    assert len(revived) == 2


def test_an_outage_is_said_once(failing: FailingStore, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    failing.fail("stat", times=4)
    with caplog.at_level(logging.WARNING):
        _retrying(failing, clock).stat("a")
    assert [record.getMessage() for record in caplog.records] == ["memory:// did not answer stat a. Trying again for up to 30 s."]


def test_a_wrapped_store_pickles_small(clock: FakeClock) -> None:
    assert len(pickle.dumps(Retrying(_Tiny(), clock=clock, budget_s=1.0))) < 600


class _Tiny:
    uri = "tiny://"
