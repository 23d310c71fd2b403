"""The real publisher, the real reuse of results and the real collector, in every order of their operations on small stores.

What is acknowledged can be read whole, whatever a collector did meanwhile, wherever it died, and whoever went on in its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from foundry_ray.artifacts.manifests import publish, put_json, read_file
from foundry_ray.artifacts.plans import list_plans
from foundry_ray.config import LimitsConfig, RetentionConfig
from foundry_ray.housekeeping.gc import Collector
from foundry_ray.runlog import StageResult, commit_result
from foundry_ray.stages import StageRunner
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import ArtifactRef, RunRecord, RunStatus, to_json
from tests.unit.housekeeping._interleaving import ActorStore, Explored, PatientClock, World, explore

_GRACE_S = 100.0
_LIMITS = LimitsConfig(lease_ttl_s=1e6, lease_wait_s=1e6)  # no heartbeat falls into a test
_FILES = {"graph": b"graph", "weights": b"weights"}
_STAGE_KEY = "0123456789abcdef" * 2


def _publish(store: MemoryStore) -> ArtifactRef:
    return publish(store, kind="model", files=_FILES, created_at="", num_threads=1)


def _collector(store: MemoryStore, world: World, name: str = "", grace_s: float = _GRACE_S) -> Collector:
    return Collector(
        store=store,
        retention=RetentionConfig(),
        grace_s=grace_s,
        clock=PatientClock(world, name),
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
    world.now_s += 10 * _GRACE_S
    if is_marked:
        assert _collector(world.store, world).collect().action == "marked"
        world.now_s += 10 * _GRACE_S
    return world


def _publisher(world: World, name: str) -> None:
    """Publishes the same content as everybody, and then a run's record names it."""

    def act(store: ActorStore) -> None:
        _record(world.store, name, _publish(store))  # at once: what is acknowledged and never named may go one day

    world.add(name, act)


def _collecting(world: World, name: str, grace_s: float = _GRACE_S) -> None:
    def act(store: ActorStore) -> None:
        _collector(store, world, name, grace_s).collect()

    world.add(name, act)


def _successor(world: World) -> None:
    """Collects once the first collector was killed."""

    def act(store: ActorStore) -> None:
        first = next(one for one in world.actors if one.name == "collector")
        clock = PatientClock(world, "successor")
        while not first.is_over:
            clock.sleep(1.0)
        if first.is_killed:
            _bury(world.store)
            _collector(store, world, "successor").collect()

    world.add("successor", act)


def _bury(store: MemoryStore) -> None:
    """Let the holder of the lease look like the dead process that it is."""
    for key, data in list(store.objects.items()):
        if key.startswith("leases/gc/") and key.endswith(".claim"):
            store.objects[key] = json.dumps({**json.loads(data), "started": "long ago"}).encode()


def _acknowledged(world: World) -> list[str]:
    records = [json.loads(data)["record"] for key, data in sorted(world.store.objects.items()) if key.startswith("runs/")]
    return [record["config"]["model"] for record in records]


def _check_whole(world: World) -> None:
    for key in _acknowledged(world):
        assert {name: read_file(world.store, key, name) for name in _FILES} == _FILES


def _check_now_and_later(world: World) -> None:
    """What is named is whole, also after more collections; what is not named goes in the end."""
    _check_whole(world)
    _bury(world.store)
    for _ in range(6):
        world.now_s += 100_000.0
        _collector(world.store, world).collect()
    _check_whole(world)
    assert all(plan.done_at_s is not None for plan in list_plans(world.store))
    if not _acknowledged(world):
        assert not [key for key in world.store.objects if key.startswith(("artifacts/", "blobs/"))]
    assert sum(key.startswith("artifacts/") for key in world.store.objects) == len(set(_acknowledged(world)))
    assert sum(key.startswith("blobs/") for key in world.store.objects) == len(_FILES) * len(set(_acknowledged(world)))


def _explored(build: Callable[[], World], *, mortal: tuple[str, ...] = (), check: Callable[[World], None] = _check_now_and_later) -> Explored:
    explored = explore(build, check, mortal=mortal)
    print(f"\n{explored.num_orders} orders, {explored.num_states} states")
    return explored


@pytest.mark.parametrize("without", ["", "artifacts/", "blobs/"])
def test_a_publisher_loses_nothing_to_a_collector_that_deletes(without: str) -> None:
    def build() -> World:
        world = _old_world(is_marked=True, without=without)
        _publisher(world, "publisher")
        _collecting(world, "collector")
        return world

    assert _explored(build).num_states > 100


def test_a_publisher_loses_nothing_to_a_collector_without_grace() -> None:
    def build() -> World:
        world = _old_world(is_marked=False)
        _publisher(world, "publisher")
        _collecting(world, "collector", grace_s=0.0)
        return world

    assert _explored(build).num_states > 100


def test_two_publishers_of_the_same_content_and_a_collector_lose_nothing() -> None:
    def build() -> World:
        world = _old_world(is_marked=True)
        _publisher(world, "first")
        _publisher(world, "second")
        _collecting(world, "collector")
        return world

    assert _explored(build).num_states > 1000


def test_a_collector_may_die_at_any_step_and_another_one_goes_on() -> None:
    def build() -> World:
        world = _old_world(is_marked=True)
        _publisher(world, "publisher")
        _collecting(world, "collector")
        _successor(world)
        return world

    assert _explored(build, mortal=("collector",)).num_states > 1000


def test_a_publisher_that_stops_for_ever_leaves_only_what_goes_in_the_end() -> None:
    def build() -> World:
        world = _old_world(is_marked=True, without="artifacts/")
        _publisher(world, "publisher")
        _publisher(world, "stalled")
        _collecting(world, "collector")
        return world

    assert _explored(build, mortal=("stalled",)).num_states > 1000


@contextmanager
def _no_bar(self: RecordingReporter, name: str) -> Iterator[None]:
    yield


def _reusing(world: World, name: str) -> None:
    def act(store: ActorStore) -> None:
        context = SimpleNamespace(store=store, clock=PatientClock(world, name), reporter=RecordingReporter(), limits=_LIMITS)
        runner = StageRunner(context, RunRecord(run_id=name, pipeline="p", config={}, versions={}))
        ref = runner.do("data", _STAGE_KEY, lambda: _publish(store), ArtifactRef)
        runner.record = RunRecord(run_id=name, pipeline="p", config={"model": ref.key}, versions={}, stages=runner.record.stages)
        runner.finish(RunStatus.DONE)

    world.add(name, act)


@pytest.mark.parametrize("mortal", [(), ("collector",)])
def test_a_run_that_reuses_a_result_finds_all_of_it_or_makes_it_again(monkeypatch: pytest.MonkeyPatch, mortal: tuple[str, ...]) -> None:
    monkeypatch.setattr(RecordingReporter, "stage", _no_bar, raising=False)
    monkeypatch.setattr(RecordingReporter, "reused", lambda self, name, reason: None, raising=False)
    monkeypatch.setattr("foundry_ray.stages.library_versions", dict)

    def build() -> World:
        world = _old_world(is_marked=False)
        result = StageResult(outputs=to_json(_publish(world.store)), run_id="old", created_at="", duration_s=0.0, versions={})
        commit_result(world.store, "data", _STAGE_KEY, result)
        world.now_s += 10 * _GRACE_S
        _collector(world.store, world).collect()
        world.now_s += 10 * _GRACE_S
        _reusing(world, "run")
        _collecting(world, "collector")
        if mortal:
            _successor(world)
        return world

    def check(world: World) -> None:
        assert len(_acknowledged(world)) == 1
        assert f"stages/data/{_STAGE_KEY}.json" in world.store.objects
        _check_now_and_later(world)

    assert _explored(build, mortal=mortal, check=check).num_states > 100
