"""Aliases move by compare-and-swap, `champion` is earned, and rollbacks walk down."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foundry_ray import registry
from foundry_ray.artifacts.manifests import get_json
from foundry_ray.errors import ArtifactNotFound, ConfigError, Conflict, OutOfRange, RolloutRejected, StoreError
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import RegistryEntry

from .conftest import NOTE, put_old_moves, put_version


def _three(store: MemoryStore) -> None:
    for weights in (b"one", b"two", b"three"):
        put_version(store, weights)


def _champion(store: MemoryStore) -> int:
    return registry.resolve(store, "mnist@champion").version


def test_a_move_says_who_when_why_from_where_and_on_which_report(store: MemoryStore) -> None:
    _three(store)
    registry.promote(store, "mnist", 1, note=NOTE)
    first, *_, last = registry.history(store, "mnist", "champion")
    assert (last.number, last.previous, last.version, last.kind) == (4, 3, 1, "promote")
    assert (last.by, last.at, last.reason) == ("ann@desk", "2026-01-01T00:00:00+00:00", "because")
    assert last.report == registry.resolve(store, "mnist:1").report
    assert (first.kind, first.by, first.reason) == ("register", "ann@desk", "registered by run run-1")


def test_promoting_to_where_it_points_changes_nothing(store: MemoryStore) -> None:
    _three(store)
    assert registry.promote(store, "mnist", 3, note=NOTE).number == 3
    assert len(registry.history(store, "mnist", "champion")) == 3


def test_a_refused_promotion_names_the_gates_that_failed(store: MemoryStore) -> None:
    put_version(store, b"one", passed=False)
    with pytest.raises(RolloutRejected, match=r"did not pass the gates \(accuracy_drop_points is 0\.6, wanted <= 0\.5\)\.") as caught:
        registry.promote(store, "mnist", 1, note=NOTE)
    assert caught.value.exit_code == 3
    assert registry.promote(store, "mnist", 1, alias="candidate", note=NOTE).version == 1


def test_a_promotion_from_elsewhere_than_expected_is_refused(store: MemoryStore) -> None:
    _three(store)
    with pytest.raises(Conflict, match=r"mnist@champion points at version 3 since ann@desk moved it at 2023-\S+, expected version 2\.") as caught:
        registry.promote(store, "mnist", 1, note=NOTE, expect=2)
    assert caught.value.exit_code == 5
    assert registry.promote(store, "mnist", 1, note=NOTE, expect=3).version == 1
    with pytest.raises(Conflict, match=r"mnist@candidate does not exist, expected version 1\."):
        registry.promote(store, "mnist", 1, alias="candidate", note=NOTE, expect=1)
    assert registry.promote(store, "mnist", 1, alias="candidate", note=NOTE, expect=0).previous is None
    with pytest.raises(Conflict, match="expected no such alias"):
        registry.promote(store, "mnist", 2, alias="candidate", note=NOTE, expect=0)


def test_two_rollbacks_in_a_row_go_further_back(store: MemoryStore) -> None:
    _three(store)
    assert [registry.rollback(store, "mnist", note=NOTE).version for _ in range(2)] == [2, 1]
    with pytest.raises(ArtifactNotFound, match=r"mnist@champion points at version 1, and there is nothing before it to roll back to\.") as caught:
        registry.rollback(store, "mnist", note=NOTE)
    assert "`foundry models promote mnist:VERSION --alias champion`" in caught.value.hint
    assert _champion(store) == 1


def test_what_was_rolled_back_is_not_returned_to_but_by_promotion(store: MemoryStore) -> None:
    _three(store)
    registry.rollback(store, "mnist", note=NOTE)
    with pytest.raises(
        ArtifactNotFound, match=r"cannot be rolled back from 2 to 3: that is none that it pointed at before; wanted one of 1\."
    ) as caught:
        registry.rollback(store, "mnist", to=3, note=NOTE)
    assert "`foundry models promote mnist:3 --alias champion`" in caught.value.hint
    registry.promote(store, "mnist", 3, note=NOTE)
    assert registry.rollback(store, "mnist", note=NOTE).version == 2


def test_a_rollback_can_name_an_earlier_version(store: MemoryStore) -> None:
    _three(store)
    move = registry.rollback(store, "mnist", to=1, note=NOTE)
    assert (move.kind, move.previous, move.version) == ("rollback", 3, 1)
    with pytest.raises(ArtifactNotFound, match="nothing before it"):
        registry.rollback(store, "mnist", note=NOTE)


def test_a_rollback_to_what_fails_by_now_is_refused(store: MemoryStore) -> None:
    _three(store)
    two = registry.resolve(store, "mnist:2").model
    registry.register(store, name="mnist", model=two, report_key="later", passed=False, run_id="r", clock=FakeClock())
    with pytest.raises(RolloutRejected, match="mnist:2 cannot become champion") as caught:
        registry.rollback(store, "mnist", note=NOTE)
    assert "`rollback --to` names another version" in caught.value.hint
    assert registry.rollback(store, "mnist", to=1, note=NOTE).version == 1


def test_an_alias_that_nobody_set_cannot_be_rolled_back(store: MemoryStore) -> None:
    _three(store)
    with pytest.raises(ArtifactNotFound, match=r"mnist has no alias 'candidate'; aliases: champion; versions: 1, 2, 3"):
        registry.rollback(store, "mnist", alias="candidate", note=NOTE)
    with pytest.raises(ArtifactNotFound, match=r"no model is registered as 'mnits'"):
        registry.rollback(store, "mnits", note=NOTE)


def test_registering_again_does_not_undo_a_rollback(store: MemoryStore) -> None:
    _three(store)
    registry.rollback(store, "mnist", note=NOTE)
    assert put_version(store, b"three").aliases == ()
    assert _champion(store) == 2


def test_a_champion_whose_newest_report_failed_is_shown_as_such(store: MemoryStore) -> None:
    _three(store)
    model = registry.resolve(store, "mnist:3").model
    entry = registry.register(store, name="mnist", model=model, report_key="later", passed=False, run_id="r", clock=FakeClock())
    assert registry.is_fallen(entry)
    assert [registry.is_fallen(found) for found in registry.versions(store, "mnist")] == [False, False, True]
    assert registry.model_card(store, "mnist").warnings[0].startswith("mnist@champion points at version 3, whose newest report failed;")


def test_moves_of_format_1_are_read_and_rolled_back(store: MemoryStore) -> None:
    _three(store)
    for key in [key for key in store.objects if "/aliases/" in key]:
        del store.objects[key]
    put_old_moves(store, 1, 2, 3, 2)
    moves = registry.history(store, "mnist", "champion")
    assert [(move.version, move.kind, move.by, move.format_version) for move in moves][-1] == (2, "set", "unknown", 1)
    assert moves[0].at.startswith("1970-01-01T")
    assert (_champion(store), registry.show(store, "mnist@champion").version) == (2, 2)
    assert [registry.rollback(store, "mnist", note=NOTE).version for _ in range(2)] == [3, 2]


def test_a_move_of_a_newer_foundry_is_not_misread(store: MemoryStore) -> None:
    _three(store)
    key = "registry/mnist/aliases/champion/00000003"
    document = get_json(store, key)
    assert isinstance(document, dict)
    store.put(key, str({**document, "format_version": 3, "target": None}).replace("'", '"').replace("None", "null").encode())
    with pytest.raises(StoreError, match="00000003 has format_version 3, this foundry reads up to 2"):
        registry.resolve(store, "mnist@champion")


@pytest.mark.parametrize(("reason", "got"), [("x" * 501, "501 characters"), ("two\nlines", "control characters")])
def test_a_reason_is_one_line_of_at_most_500_characters(reason: str, got: str) -> None:
    with pytest.raises(OutOfRange, match=f"the reason has {got}, wanted one line of at most 500 characters"):
        registry.write_note(FakeClock(), reason=reason)
    assert registry.write_note(FakeClock(), reason="x" * 500).at == "2023-11-14T22:13:20+00:00"


@pytest.mark.parametrize("text", ["mnist:1", "mnist@", "mnist@a b"])
def test_a_history_is_that_of_an_alias(text: str) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        registry.parse_alias(text)


class _Meeting(MemoryStore):
    """Two writers of an alias wait for each other before either writes."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier: threading.Barrier | None = None

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        if self.barrier is not None and "/aliases/" in key:
            self.barrier.wait(timeout=30)
        super().put(key, source, if_absent=if_absent)


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told_who_did() -> None:
    store = _Meeting()
    _three(store)
    store.barrier = threading.Barrier(2)

    def move(version: int) -> registry.AliasMove | Conflict:
        note = registry.Note(by=f"user{version}@desk", at="2026-01-01T00:00:00+00:00")
        try:
            return registry.promote(store, "mnist", version, note=note)
        except Conflict as conflict:
            return conflict

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(move, (1, 2)))
    [won] = [answer for answer in answers if isinstance(answer, registry.AliasMove)]
    [lost] = [answer for answer in answers if isinstance(answer, Conflict)]
    assert _champion(store) == won.version
    assert f": user{won.version}@desk moved it to version {won.version} at 2026-01-01T00:00:00+00:00;" in lost.message
    assert lost.exit_code == 5


def test_no_move_of_many_movers_is_lost(store: MemoryStore) -> None:
    _three(store)
    moves: list[registry.AliasMove] = []

    def mover(number: int) -> None:
        for turn in range(20):
            try:
                note = registry.Note(by=f"user{number}", at=str(turn))
                moves.append(registry.promote(store, "mnist", 1 + (number + turn) % 3, alias="candidate", note=note))
            except Conflict:
                continue

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(mover, range(8)))
    past = registry.history(store, "mnist", "candidate")
    assert [move.number for move in past] == list(range(1, len(past) + 1))
    assert [move.previous for move in past[1:]] == [move.version for move in past[:-1]]
    assert set(past) == set(moves)


def test_registrations_of_one_model_by_many_give_one_version(store: MemoryStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(lambda number: _registered(store, bytes([number % 3])), range(24)))
    assert sorted({entry.version for entry in entries}) == [1, 2, 3]
    assert [entry.version for entry in registry.versions(store, "mnist")] == [1, 2, 3]


def _registered(store: MemoryStore, weights: bytes) -> RegistryEntry:
    while True:
        try:
            return put_version(store, weights)
        except Conflict:  # others moved the champion at the same moment; the version is registered
            continue
