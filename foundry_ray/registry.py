"""Versions of a model under a name, aliases that point at them, and the rule that guards promotion.

Everything is a numbered object that is created once and never changed, so that the number is the lock and the series is the history:

    registry/<name>/versions/<version>         the model, immutable
    registry/<name>/reports/<version>/<n>      what an evaluation said about it; the last one counts
    registry/<name>/aliases/<alias>/<n>        where the alias points since then
    registry-names/<name>                      which names there are
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from foundry_ray.artifacts.manifests import fetch, get_json, put_json
from foundry_ray.errors import ArtifactNotFound, ConfigError, Conflict, RolloutRejected
from foundry_ray.protocols import ArtifactStore, Clock
from foundry_ray.types import FORMAT_VERSION, ModelArtifact, RegistryEntry, from_json, to_json

CHAMPION = "champion"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_MAX_RACES = 100
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove:
    """One step of an alias' history. `moved_at_s` is the store's time, in seconds since the epoch."""

    number: int
    version: int
    previous: int | None
    moved_at_s: float = 0.0
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    model: ModelArtifact
    run_id: str
    created_at: str
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    report: str
    passed: bool
    run_id: str
    created_at: str
    format_version: int = FORMAT_VERSION


class Registry:
    """The registry of one store, for programs: the functions of this module with the store given."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def names(self) -> tuple[str, ...]:
        """All registered names, sorted."""
        return names(self._store)

    def versions(self, name: str) -> tuple[RegistryEntry, ...]:
        """All versions of a name, oldest first."""
        return versions(self._store, name)

    def resolve(self, reference: str) -> RegistryEntry:
        """The version behind `name@alias`, `name:version` or `name`."""
        return resolve(self._store, reference)

    def set_alias(self, name: str, alias: str, version: int) -> AliasMove:
        """Point an alias at a version."""
        return set_alias(self._store, name, alias, version)

    def pull(self, reference: str, directory: Path) -> dict[str, Path]:
        """The files of a version into a folder, verified."""
        return pull(self._store, self.resolve(reference), directory)


def register(store: ArtifactStore, *, name: str, model: ModelArtifact, report_key: str, passed: bool, run_id: str, clock: Clock) -> RegistryEntry:
    """Give a model a version under `name`, and make it champion if it passed.

    The same model has one version, however often it is registered; another report about it is added to that version and counts from then on.
    Registering again without news moves no alias, so that a rollback stays.

    Raises:
        ConfigError: The name is none.
        Conflict: Others moved the champion at the same moment; the version is registered.
    """
    _check_name(name, "model name")
    created_at = datetime.fromtimestamp(clock.now_s(), UTC).isoformat(timespec="seconds")
    version = _version_of(store, name, _Version(model=model, run_id=run_id, created_at=created_at))
    with suppress(Conflict):
        put_json(store, f"registry-names/{name}", {"format_version": FORMAT_VERSION, "created_at": created_at}, if_absent=True)
    verdict = _Verdict(report=report_key, passed=passed, run_id=run_id, created_at=created_at)
    is_news = _add_verdict(store, name, version, verdict)
    if passed and (is_news or version not in {move.version for move in history(store, name, CHAMPION)}):
        set_alias(store, name, CHAMPION, version)
    return _entry(store, name, version)


def resolve(store: ArtifactStore, reference: str) -> RegistryEntry:
    """The version behind `name@alias`, `name:version`, or `name`, which means `name@champion`.

    Raises:
        ConfigError: The reference has another form.
        ArtifactNotFound: With the names, versions or aliases that there are.
    """
    name, kind, target = _parse(reference)
    if kind == ":":
        return _entry(store, name, int(target))
    moves = _numbers(store, _alias_folder(name, target))
    if moves:
        return _entry(store, name, _alias_move(store, name, target, moves[-1]).version)
    numbers = _known_versions(store, name)
    aliases = ", ".join(_alias_names(store, name)) or "none"
    message = f"{name} has no alias {target!r}; aliases: {aliases}; versions: {_listed(numbers)}."
    raise ArtifactNotFound(message, hint=f"name a version, for example `{name}:{numbers[-1]}`.", key=reference)


def versions(store: ArtifactStore, name: str) -> tuple[RegistryEntry, ...]:
    """All versions of a name, oldest first. Raises ArtifactNotFound for an unknown name."""
    return tuple(_entry(store, name, version) for version in _known_versions(store, name))


def names(store: ArtifactStore) -> tuple[str, ...]:
    """All registered names, sorted."""
    return tuple(info.key.rpartition("/")[2] for info in store.list("registry-names/"))


def set_alias(store: ArtifactStore, name: str, alias: str, version: int) -> AliasMove:
    """Point an alias at a version; moving it to where it points already changes nothing.

    Raises:
        ArtifactNotFound: There is no such version.
        RolloutRejected: `champion` was asked for a version whose last report did not pass.
        Conflict: Somebody else moved the alias at the same moment.
    """
    _check_name(alias, "alias")
    entry = _entry(store, name, version)
    if alias == CHAMPION and not entry.passed:
        message = f"{name}:{version} cannot become {CHAMPION}: its report did not pass the gates."
        raise RolloutRejected(
            message, hint=f"`foundry models show {name}:{version}` lists the gates; another alias is free.", reason="gates not passed"
        )
    numbers = _numbers(store, _alias_folder(name, alias))
    last = _alias_move(store, name, alias, numbers[-1]) if numbers else None
    if last is not None and last.version == version:
        return last
    move = AliasMove(number=(numbers[-1] + 1) if numbers else 1, version=version, previous=last.version if last else None)
    try:
        put_json(store, _numbered(_alias_folder(name, alias), move.number), to_json(move), if_absent=True)
    except Conflict as error:
        message = f"{name}@{alias} was moved by somebody else at the same moment."
        raise Conflict(
            message, hint=f"`foundry models show {name}@{alias}` says where it points; repeat if you still want to.", key=error.facts.get("key")
        ) from error
    return move


def history(store: ArtifactStore, name: str, alias: str) -> tuple[AliasMove, ...]:
    """Where an alias pointed, oldest first."""
    _check_name(name, "model name")
    _check_name(alias, "alias")
    return tuple(_alias_move(store, name, alias, number) for number in _numbers(store, _alias_folder(name, alias)))


def pull(store: ArtifactStore, entry: RegistryEntry, directory: Path) -> dict[str, Path]:
    """The files of a version into a folder, each verified. Returns paths by name. Raises ArtifactCorrupt."""
    return fetch(store, entry.model.artifact.key, directory)


def _version_of(store: ArtifactStore, name: str, wanted: _Version) -> int:
    seen: set[int] = set()
    for _ in range(_MAX_RACES):
        numbers = _numbers(store, _version_folder(name))
        for number in reversed([number for number in numbers if number not in seen]):
            if _version(store, name, number).model.artifact.sha256 == wanted.model.artifact.sha256:
                return number
            seen.add(number)
        number = numbers[-1] + 1 if numbers else 1
        with suppress(Conflict):
            put_json(store, _numbered(_version_folder(name), number), to_json(wanted), if_absent=True)
            return number
    raise Conflict(
        f"{name} got no version in {_MAX_RACES} attempts: others registered faster.", hint="repeat the command.", key=_version_folder(name)
    )


def _add_verdict(store: ArtifactStore, name: str, version: int, verdict: _Verdict) -> bool:
    """Whether the verdict is news."""
    for _ in range(_MAX_RACES):
        numbers = _numbers(store, _report_folder(name, version))
        last = _verdict(store, name, version, numbers[-1]) if numbers else None
        if last is not None and (last.report, last.passed) == (verdict.report, verdict.passed):
            return False
        with suppress(Conflict):
            put_json(store, _numbered(_report_folder(name, version), numbers[-1] + 1 if numbers else 1), to_json(verdict), if_absent=True)
            return True
    raise Conflict(f"{name}:{version} took no report in {_MAX_RACES} attempts.", hint="repeat the command.", key=_report_folder(name, version))


def _entry(store: ArtifactStore, name: str, version: int) -> RegistryEntry:
    try:
        found = _version(store, name, version)
    except ArtifactNotFound as error:
        known = _known_versions(store, name)
        message = f"{name} has no version {version}; versions: {_listed(known)}."
        raise ArtifactNotFound(message, hint=f"for example `{name}:{known[-1]}`.", key=f"{name}:{version}") from error
    reports = _numbers(store, _report_folder(name, version))
    verdict = _verdict(store, name, version, reports[-1]) if reports else None
    aliases = tuple(alias for alias, target in _aliases(store, name) if target == version)
    return RegistryEntry(
        name=name,
        version=version,
        model=found.model,
        report=verdict.report if verdict else "",
        passed=verdict is not None and verdict.passed,
        aliases=aliases,
        run_id=found.run_id,
        created_at=found.created_at,
    )


def _known_versions(store: ArtifactStore, name: str) -> list[int]:
    """At least one version number. Raises ArtifactNotFound, which names what there is."""
    _check_name(name, "model name")
    numbers = _numbers(store, _version_folder(name))
    if numbers:
        return numbers
    known = names(store)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else "`foundry run pipeline.yaml` registers a model."
    raise ArtifactNotFound(f"no model is registered as {name!r}; registered: {', '.join(known) or 'none'}.", hint=hint, key=name)


def _aliases(store: ArtifactStore, name: str) -> Iterator[tuple[str, int]]:
    for alias in _alias_names(store, name):
        number = _numbers(store, _alias_folder(name, alias))[-1]
        yield alias, _alias_move(store, name, alias, number).version


def _alias_names(store: ArtifactStore, name: str) -> list[str]:
    return sorted({info.key.split("/")[3] for info in store.list(f"registry/{name}/aliases/")})


def _parse(reference: str) -> tuple[str, str, str]:
    name, kind, target = reference, "@", CHAMPION
    for mark in "@:":
        if mark in reference:
            name, kind, target = reference.partition(mark)
            break
    _check_name(name, "model name")
    if kind == ":" and not (target.isascii() and target.isdigit() and len(target) <= 8):
        raise ConfigError(f"{reference!r} has the version {target!r}, wanted a number.", hint=f"for example `{name}:1`, or `{name}@{CHAMPION}`.")
    if kind == "@":
        _check_name(target, "alias")
    return name, kind, target


def _check_name(text: str, what: str) -> None:
    if _NAME.fullmatch(text) is None:
        raise ConfigError(
            f"{text!r} is no {what}, wanted letters, digits, - and _.", hint="write `name@alias` or `name:version`, for example `mnist@champion`."
        )


def _numbers(store: ArtifactStore, folder: str) -> list[int]:
    return [int(info.key.rpartition("/")[2]) for info in store.list(f"{folder}/")]


def _version(store: ArtifactStore, name: str, number: int) -> _Version:
    return _load(store, _Version, _numbered(_version_folder(name), number))


def _verdict(store: ArtifactStore, name: str, version: int, number: int) -> _Verdict:
    return _load(store, _Verdict, _numbered(_report_folder(name, version), number))


def _alias_move(store: ArtifactStore, name: str, alias: str, number: int) -> AliasMove:
    key = _numbered(_alias_folder(name, alias), number)
    info = store.stat(key)
    return replace(_load(store, AliasMove, key), moved_at_s=info.modified_at_s if info else 0.0)


def _load(store: ArtifactStore, kind: type[T], key: str) -> T:
    return from_json(kind, get_json(store, key), what=key)


def _version_folder(name: str) -> str:
    return f"registry/{name}/versions"


def _report_folder(name: str, version: int) -> str:
    return f"registry/{name}/reports/{version:08d}"


def _alias_folder(name: str, alias: str) -> str:
    return f"registry/{name}/aliases/{alias}"


def _numbered(folder: str, number: int) -> str:
    return f"{folder}/{number:08d}"


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
