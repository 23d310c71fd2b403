"""Who may move an alias, and where to: promotion and rollback.

`champion` moves only to a version whose newest report passed. Every move is a compare-and-swap on the number of the move before it, so that
of two at one moment one wins and the other one is told who did.
"""

from __future__ import annotations

from dataclasses import dataclass

from foundry_ray.errors import ArtifactNotFound, Conflict, RolloutRejected
from foundry_ray.protocols import ArtifactStore
from foundry_ray.registry import moves, naming, records
from foundry_ray.registry.moves import AliasMove, MoveKind
from foundry_ray.registry.naming import CHAMPION
from foundry_ray.registry.records import Verdict, Version
from foundry_ray.registry.series import Note


def promote(
    store: ArtifactStore, name: str, version: int, *, alias: str = CHAMPION, note: Note, expect: int | None = None, kind: MoveKind = "promote"
) -> AliasMove:
    """Point an alias at a version; where it points there already, nothing changes. Six requests; up to two more for what
    foundry 0.1 registered.

    Args:
        store: Where.
        name: A registered name.
        version: What the alias is to point at.
        alias: The alias.
        note: Who, when and why.
        expect: The version that the alias must point at now (0: it must not exist); None: wherever it points.
        kind: What the history says that this was.

    Returns:
        The move; or the last one, where nothing changed.

    Raises:
        ArtifactNotFound: There is no such version.
        RolloutRejected: `champion` was asked for a version whose newest report did not pass; names the gates.
        Conflict: The alias is not where it was expected, or somebody else moved it at the same moment; says who.
    """
    naming.check_name(alias, "alias")
    pointer = moves.newest(store, name, alias)
    last = pointer.move if pointer else None
    record = records.load_version(store, name, version)
    if expect is not None and expect != (last.version if last else 0):
        raise _unexpected(name, alias, last, expect)
    verdict = _admitted(store, name, version, alias)
    if last is not None and last.version == version:
        return last
    return _move(store, name, alias, last, _Target(version=version, record=record, verdict=verdict), kind, note)


def rollback(store: ArtifactStore, name: str, *, alias: str = CHAMPION, to: int | None = None, note: Note) -> AliasMove:
    """Point an alias at the version before the one that it points at, or at an earlier one. Five requests, and one a move of its history.

    What was rolled back is left behind: the next rollback goes further back. The way up again is `promote`.

    Raises:
        ArtifactNotFound: There is no such alias, nothing to roll back to, or `to` is no version that stands below.
        Conflict: Somebody else moved it at the same moment; says who.
        RolloutRejected: The newest report of the target did not pass, and the alias is `champion`.
    """
    past = moves.history(store, name, alias)
    version = _below(name, alias, moves.standing(past), to)
    record = records.load_version(store, name, version)
    target = _Target(version=version, record=record, verdict=_admitted(store, name, version, alias))
    return _move(store, name, alias, past[-1], target, "rollback", note)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Where an alias is to point."""

    version: int
    record: Version
    verdict: Verdict | None


def _below(name: str, alias: str, standing: tuple[int, ...], to: int | None) -> int:
    now, below = standing[-1], [version for version in standing[:-1] if version != standing[-1]]
    if not below:
        message = f"{name}@{alias} points at version {now}, and there is nothing before it to roll back to."
        raise ArtifactNotFound(message, hint=f"`foundry models promote {name}:VERSION --alias {alias}` moves it anywhere.", key=f"{name}@{alias}")
    if to is None:
        return below[-1]
    if to in below:
        return to
    why = "it points there already" if to == now else "that is none that it pointed at before"
    message = f"{name}@{alias} cannot be rolled back from {now} to {to}: {why}; wanted one of {records.listed(sorted(set(below)))}."
    raise ArtifactNotFound(message, hint=f"`foundry models promote {name}:{to} --alias {alias}` moves it forward.", key=f"{name}@{alias}")


def _admitted(store: ArtifactStore, name: str, version: int, alias: str) -> Verdict | None:
    """The newest verdict, where it lets the version have the alias."""
    verdict = records.newest_verdict(store, name, version)
    if alias != CHAMPION or (verdict is not None and verdict.passed):
        return verdict
    message = f"{name}:{version} cannot become {CHAMPION}: its report did not pass the gates ({records.failed_gates(store, verdict)})."
    hint = f"`foundry models show {name}:{version}` shows the report; another alias is free, and `rollback --to` names another version."
    raise RolloutRejected(message, hint=hint, reason="gates not passed")


def _move(store: ArtifactStore, name: str, alias: str, last: AliasMove | None, target: _Target, kind: MoveKind, note: Note) -> AliasMove:
    move = AliasMove(
        number=last.number + 1 if last else 1,
        version=target.version,
        previous=last.version if last else None,
        kind=kind,
        by=note.by,
        at=note.at,
        reason=note.reason,
        report=target.verdict.report if target.verdict else "",
    )
    return moves.append(store, name, alias, move, target.record)


def _unexpected(name: str, alias: str, last: AliasMove | None, expect: int) -> Conflict:
    where = f"points at version {last.version} since {last.by} moved it at {last.at}" if last else "does not exist"
    message = f"{name}@{alias} {where}, expected {f'version {expect}' if expect else 'no such alias'}."
    return Conflict(message, hint=f"`foundry models history {name}@{alias}` shows the moves.", key=f"{name}@{alias}")
