"""The real publisher, the real reuse of results and the real collector, in every order of their operations on small stores.

What is acknowledged can be read whole, whatever a collector did meanwhile, wherever it died, and whoever went on in its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest

from foundry_ray.artifacts.manifests import publish, put_json, read_file
from foundry_ray.artifacts.plans import list_plans
from foundry_ray.config import LimitsConfig, RetentionConfig
from foundry_ray.errors import Conflict
from foundry_ray.housekeeping.gc import Collector
from foundry_ray.runlog import StageResult, commit_result
from foundry_ray.stages import StageRunner
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import ArtifactRef, RunRecord, RunStatus, to_json
from tests.unit.housekeeping._interleaving import Actor, Explored, PatientClock, Script, World, explore

_GRACE_S = 100.0
_LIMITS = LimitsConfig(lease_ttl_s=1e6, lease_wait_s=1e6)  # no heartbeat falls into a test
_FILES = {"graph": b"graph"}
_STAGE_KEY = "0123456789abcdef" * 2


def _publish(store: MemoryStore) -> ArtifactRef:
    return publish(store, kind="model", files=_FILES, created_at="", num_threads=1)


def _collector(store: MemoryStore, now_s: float, *, grace_s: float = _GRACE_S) -> Collector:
    return Collector(
        store=store,
        retention=RetentionConfig(),
        grace_s=grace_s,
        clock=PatientClock(store, now_s),
        reporter=RecordingReporter(),
        limits=_LIMITS,
        num_threads=1,
    )


def _record(store: MemoryStore, run_id: str, ref: ArtifactRef) -> None:
    record = RunRecord(run_id=run_id, pipeline="p", config={"model": ref.key}, versions={}, status=RunStatus.DONE)
    put_json(store, f"runs/{run_id}/record.json", {"format_version": 1, "record": to_json(record)})


def _old_world(*, is_marked: bool, without: str = "") -> World:
    """A store with an artifact that nothing names, from long ago; where `is_marked`, a plan is as old as the grace."""
    world = World()
    _publish(world.store)
    for key in [key for key in world.store.objects if without and key.startswith(without)]:
        world.store.delete(key)
    _let_pass(world, is_marked=is_marked)
    return world


def _let_pass(world: World, *, is_marked: bool) -> None:
    world.clock.advance(10 * _GRACE_S)
    if is_marked:
        assert _collector(world.store, world.clock.now_s()).collect().action == "marked"
        world.clock.advance(10 * _GRACE_S)


def _publisher(name: str, *, is_mortal: bool = False) -> Actor:
    """Publishes the same content as everybody, and then a run's record names it."""
    return Actor(lambda store: _record(store, name, _publish(store)), is_mortal=is_mortal)


def _collecting(world: World, *, grace_s: float = _GRACE_S, is_mortal: bool = False, is_slow: bool = False, after_death_of: str = "") -> Actor:
    def act(store: Script) -> None:
        with suppress(Conflict):  # it was taken for dead
            _collector(store, world.clock.now_s(), grace_s=grace_s).collect()

    return Actor(act, alone_writes="~" if is_slow else "gc/", is_mortal=is_mortal, is_slow=is_slow, after_death_of=after_death_of)


def _bury(store: MemoryStore) -> None:
    """Let the holder of the collectors' lease look like the dead process that it is."""
    for key, data in list(store.objects.items()):
        if key.startswith("leases/gc/") and key.endswith(".claim"):
            store.objects[key] = json.dumps({**json.loads(data), "started": "long ago"}).encode()


def _acknowledged(store: MemoryStore) -> list[str]:
    records = [json.loads(data)["record"] for key, data in sorted(store.objects.items()) if key.startswith("runs/")]
    return [record["config"]["model"] for record in records if "model" in record["config"]]


def _check_whole(store: MemoryStore) -> None:
    for key in _acknowledged(store):
        assert {name: read_file(store, key, name) for name in _FILES} == _FILES


def _check_now_and_later(store: MemoryStore, clock: FakeClock) -> None:
    """What is named is whole, also after more collections; what is not named goes in the end."""
    _check_whole(store)
    _bury(store)
    for _ in range(5):
        clock.advance(100_000.0)
        _collector(store, clock.now_s()).collect()
    _check_whole(store)
    assert all(plan.done_at_s is not None for plan in list_plans(store))
    num_named = len(set(_acknowledged(store)))
    assert sum(key.startswith("artifacts/") for key in store.objects) == num_named
    assert sum(key.startswith("blobs/") for key in store.objects) == len(_FILES) * num_named


def _explored(world: World, check: Callable[[MemoryStore, FakeClock], None] = _check_now_and_later, **actors: Actor) -> Explored:
    world.actors = actors
    explored = explore(world, check, bury=_bury)
    print(f"\n{explored.num_orders} orders through {explored.num_states} states")
    return explored


@pytest.mark.parametrize("without", ["", "artifacts/", "blobs/"])
def test_a_publisher_loses_nothing_to_a_collector_that_deletes(without: str) -> None:
    world = _old_world(is_marked=True, without=without)
    assert _explored(world, publisher=_publisher("p"), collector=_collecting(world)).num_orders > 1000


def test_a_publisher_loses_nothing_to_a_collector_without_grace() -> None:
    world = _old_world(is_marked=False)
    assert _explored(world, publisher=_publisher("p"), collector=_collecting(world, grace_s=0.0)).num_orders > 1000


@pytest.mark.parametrize("without", ["blobs/", pytest.param("", marks=pytest.mark.slow)])
def test_two_publishers_of_the_same_content_and_a_collector_lose_nothing(without: str) -> None:
    world = _old_world(is_marked=True, without=without)
    assert _explored(world, first=_publisher("p"), second=_publisher("q"), collector=_collecting(world)).num_orders > 1_000_000


def test_a_collector_may_die_at_any_step_and_another_one_goes_on() -> None:
    world = _old_world(is_marked=True)
    collector, successor = _collecting(world, is_mortal=True), _collecting(world, after_death_of="collector")
    assert _explored(world, publisher=_publisher("p"), collector=collector, successor=successor).num_orders > 1_000_000


@pytest.mark.parametrize("without", ["artifacts/", pytest.param("", marks=pytest.mark.slow)])
def test_a_collector_that_was_taken_for_dead_may_delete_as_late_as_it_wants(without: str) -> None:
    world = _old_world(is_marked=True, without=without)
    collector, successor = _collecting(world, is_slow=True), _collecting(world, after_death_of="collector")
    assert _explored(world, publisher=_publisher("p"), collector=collector, successor=successor).num_orders > 1_000_000


def test_a_publisher_that_stops_for_ever_leaves_only_what_goes_in_the_end() -> None:
    world = _old_world(is_marked=True, without="artifacts/")
    assert _explored(world, stalled=_publisher("p", is_mortal=True), collector=_collecting(world)).num_orders > 1000


@pytest.mark.slow
def test_a_publisher_that_stops_for_ever_does_no_harm_to_another_one() -> None:
    world = _old_world(is_marked=True, without="artifacts/")
    stalled = _publisher("q", is_mortal=True)
    assert _explored(world, publisher=_publisher("p"), stalled=stalled, collector=_collecting(world)).num_orders > 1_000_000


@contextmanager
def _no_bar(self: RecordingReporter, name: str) -> Iterator[None]:
    yield


def _run(world: World, name: str) -> Actor:
    """Reuses the data stage, or does it."""

    def act(store: Script) -> None:
        context = SimpleNamespace(store=store, clock=PatientClock(store, world.clock.now_s()), reporter=RecordingReporter(), limits=_LIMITS)
        runner = StageRunner(context, RunRecord(run_id=name, pipeline="p", config={}, versions={}))
        ref = runner.do("data", _STAGE_KEY, lambda: _publish(store), ArtifactRef)
        runner.record = replace(runner.record, config={"model": ref.key})
        runner.finish(RunStatus.DONE)

    return Actor(act)


@pytest.fixture
def _quiet_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordingReporter, "stage", _no_bar, raising=False)
    monkeypatch.setattr(RecordingReporter, "reused", lambda self, name, reason: None, raising=False)
    monkeypatch.setattr("foundry_ray.stages.library_versions", dict)


@pytest.mark.usefixtures("_quiet_stages")
@pytest.mark.parametrize("is_mortal", [False, True])
def test_a_run_that_reuses_a_result_finds_all_of_it_or_makes_it_again(is_mortal: bool) -> None:
    world = World()
    result = StageResult(outputs=to_json(_publish(world.store)), run_id="old", created_at="", duration_s=0.0, versions={})
    commit_result(world.store, "data", _STAGE_KEY, result)
    _let_pass(world, is_marked=True)

    def check(store: MemoryStore, clock: FakeClock) -> None:
        assert len(_acknowledged(store)) == 1
        assert f"stages/data/{_STAGE_KEY}.json" in store.objects
        _check_now_and_later(store, clock)

    collector, successor = _collecting(world, is_mortal=is_mortal), _collecting(world, after_death_of="collector")
    assert _explored(world, check, run=_run(world, "r"), collector=collector, successor=successor).num_orders > 100
