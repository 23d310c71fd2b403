"""Any history that random actors make of promotions, rollbacks and free moves keeps the invariants of an alias."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_ray import registry
from foundry_ray.errors import ArtifactNotFound, Conflict, RolloutRejected
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stores import MemoryStore

from .conftest import put_version

PASSED = {1: True, 2: True, 3: False, 4: True}
ACTIONS = st.tuples(st.sampled_from(["promote", "rollback", "set", "expect", "stale"]), st.sampled_from(sorted(PASSED)), st.sampled_from("ab"))


def _store() -> MemoryStore:
    store = MemoryStore()
    for version, passed in PASSED.items():
        put_version(store, bytes([version]), passed=passed)
    for key in [key for key in store.objects if "/aliases/" in key]:
        del store.objects[key]
    return store


def _history(store: MemoryStore, alias: str) -> tuple[registry.AliasMove, ...]:
    """Empty for an alias that nobody set yet."""
    with suppress(ArtifactNotFound):
        return registry.history(store, "mnist", alias)
    return ()


def _act(store: MemoryStore, action: str, version: int, actor: str, alias: str, clock: FakeClock) -> None:
    note = registry.write_note(clock, by=actor)
    clock.advance(1.0)
    now = [move.version for move in _history(store, alias)][-1:] or [0]
    if action == "rollback":
        registry.rollback(store, "mnist", alias=alias, note=note)
    elif action == "set":
        registry.promote(store, "mnist", version, alias=alias, note=note, kind="set")
    else:
        expect = {"promote": None, "expect": now[0], "stale": now[0] + 7}[action]
        registry.promote(store, "mnist", version, alias=alias, note=note, expect=expect)


def _reference(moves: tuple[registry.AliasMove, ...]) -> list[int]:
    """What the alias stood on after each move, by the plain rule: a rollback returns to the state before the current one was promoted."""
    states: list[list[int]] = [[]]
    for move in moves:
        top = states[-1]
        states.append(
            top[: max(index for index in range(len(top) - 1) if top[index] == move.version) + 1] if move.kind == "rollback" else [*top, move.version]
        )
    return states[-1]


@settings(max_examples=40, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=25), alias=st.sampled_from(["champion", "candidate"]))
def test_any_history_keeps_the_invariants(actions: list[tuple[str, int, str]], alias: str) -> None:
    store, clock = _store(), FakeClock()
    for action, version, actor in actions:
        with suppress(Conflict, RolloutRejected, ArtifactNotFound):
            _act(store, action, version, actor, alias, clock)
    moves = _history(store, alias)
    assert [move.number for move in moves] == list(range(1, len(moves) + 1))
    assert [move.previous for move in moves] == [None, *(move.version for move in moves)][: len(moves)]
    assert all(move.by in "ab" and move.at and move.version != move.previous for move in moves)
    assert alias != "champion" or all(PASSED[move.version] for move in moves)
    assert list(registry.standing(moves)) == _reference(moves)
    if moves:
        assert registry.resolve(store, f"mnist@{alias}").version == moves[-1].version


@settings(max_examples=25, deadline=None)
@given(versions=st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=12))
def test_rollbacks_walk_down_the_promotions_and_end(versions: list[int]) -> None:
    store, clock = _store(), FakeClock()
    promoted = [move.version for version in versions if (move := registry.promote(store, "mnist", version, note=registry.write_note(clock)))]
    expected = [version for index, version in enumerate(promoted) if index == 0 or version != promoted[index - 1]]
    walked = [expected[-1]]
    with suppress(ArtifactNotFound):
        while len(walked) <= len(expected):
            walked.append(registry.rollback(store, "mnist", note=registry.write_note(clock)).version)
    assert walked == expected[::-1]
