"""The history of an alias: one move an object. Decides what a history means; who may move is `promoting`'s.

A move also holds a copy of the version that it points at, which never changes, so that following an alias is one request less.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from foundry_ray.clock import utc
from foundry_ray.errors import ArtifactNotFound, Conflict
from foundry_ray.protocols import ArtifactStore
from foundry_ray.registry import naming, records, series
from foundry_ray.registry.records import Version
from foundry_ray.types import Json, from_json, to_json

MoveKind = Literal["promote", "rollback", "register", "set"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove:
    """One step of an alias' history: from `previous` to `version`.

    `by` is user@host, `at` the ISO time of that host's clock, `report` the key of the report that counted then. Moves of format 1 know
    neither who, why nor what kind; their `at` is the store's time.
    """

    number: int
    version: int
    previous: int | None
    kind: MoveKind = "set"
    by: str = "unknown"
    at: str = ""
    reason: str = ""
    report: str = ""
    format_version: int = series.FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """Where an alias points: its newest move, and the version as the move holds it (None in format 1)."""

    move: AliasMove
    target: Version | None


def newest_number(store: ArtifactStore, name: str, alias: str) -> int:
    """The number of an alias' newest move; 0 for one that nobody set. One request a thousand moves."""
    return max(series.numbers(store, naming.alias_folder(name, alias)), default=0)


def newest(store: ArtifactStore, name: str, alias: str) -> Pointer | None:
    """Where an alias points, or None for one that nobody set. Two requests, and one more a thousand moves."""
    number = newest_number(store, name, alias)
    return read_move(store, name, alias, number) if number else None


def read_move(store: ArtifactStore, name: str, alias: str, number: int) -> Pointer:
    """One move. One request; two for format 1."""
    key = series.key_of(naming.alias_folder(name, alias), number)
    document = series.read(store, key)
    move = from_json(AliasMove, document, what=key)
    target = from_json(Version, document["target"], what=key) if "target" in document else None
    return Pointer(move=move if move.at else replace(move, at=_store_time(store, key)), target=target)


def aliases(store: ArtifactStore, name: str) -> dict[str, Pointer]:
    """All aliases of a name, sorted. One request, and one an alias."""
    return read_pointers(store, name, (info.key for info in store.list(f"{naming.aliases_folder(name)}/")))


def read_pointers(store: ArtifactStore, name: str, keys: Iterable[str]) -> dict[str, Pointer]:
    """All aliases of a name, given the keys of its moves. One request an alias."""
    last: dict[str, int] = {}
    for key in keys:
        alias, _, _ = key.removeprefix(f"{naming.aliases_folder(name)}/").rpartition("/")
        number = series.number_of(key)
        if number is not None and naming.is_name(alias):
            last[alias] = max(number, last.get(alias, 0))
    return {alias: read_move(store, name, alias, last[alias]) for alias in sorted(last)}


def history(store: ArtifactStore, name: str, alias: str) -> tuple[AliasMove, ...]:
    """Where an alias pointed, oldest first. One request, and one a move. Raises ArtifactNotFound for one that nobody set."""
    naming.check_name(name, "model name")
    naming.check_name(alias, "alias")
    numbers = series.numbers(store, naming.alias_folder(name, alias))
    if not numbers:
        raise unknown_alias(store, name, alias)
    return tuple(pointer.move for pointer in series.gather(lambda number: read_move(store, name, alias, number), numbers))


def unknown_alias(store: ArtifactStore, name: str, alias: str) -> ArtifactNotFound:
    """What to raise for an alias that nobody set. Raises ArtifactNotFound itself for an unknown name."""
    known = records.known_versions(store, name)
    message = f"{name} has no alias {alias!r}; aliases: {', '.join(aliases(store, name)) or 'none'}; versions: {records.listed(known)}."
    newest_version = f"{name}:{known[-1]}"
    hint = f"`{newest_version}` names a version; `foundry models promote {newest_version} --alias {alias}` sets the alias."
    return ArtifactNotFound(message, hint=hint, key=f"{name}@{alias}")


def standing(moves: Iterable[AliasMove]) -> tuple[int, ...]:
    """The versions that rollbacks walk down, the one that the alias points at last.

    A rollback takes away what stands above its target, so that the next one goes further back and never returns to what was left.
    """
    stack: list[int] = []
    for move in moves:
        below = stack[:-1]
        if move.kind == "rollback" and move.version in below:
            del stack[len(below) - below[::-1].index(move.version) :]
        elif not stack or stack[-1] != move.version:
            stack.append(move.version)
    return tuple(stack)


def append(store: ArtifactStore, name: str, alias: str, move: AliasMove, target: Version) -> AliasMove:
    """Write the move, whose number is one above that of the move it was decided on. Raises Conflict, which says who was first."""
    folder = naming.alias_folder(name, alias)
    try:
        series.create(store, folder, move.number, {**_document(move), "target": to_json(target)})
    except Conflict as error:
        raise _beaten(store, name, alias, move) from error
    return move


def _document(move: AliasMove) -> dict[str, Json]:
    document = to_json(move)
    assert isinstance(document, dict)
    return document


def _beaten(store: ArtifactStore, name: str, alias: str, move: AliasMove) -> Conflict:
    key = series.key_of(naming.alias_folder(name, alias), move.number)
    try:
        winner = read_move(store, name, alias, move.number).move
        who = f"{winner.by} moved it to version {winner.version} at {winner.at}"
    except ArtifactNotFound:
        who = "the object of its move is there and cannot be read"
    message = f"{name}@{alias} was moved by somebody else at the same moment: {who}; it was not moved to version {move.version}."
    return Conflict(message, hint=f"`foundry models history {name}@{alias}` shows the moves; repeat if you still want to.", key=key)


def _store_time(store: ArtifactStore, key: str) -> str:
    info = store.stat(key)
    return utc(info.modified_at_s) if info else ""
