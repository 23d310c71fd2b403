"""The registry of one store, for programs: the functions of this package with the store given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from foundry_ray.artifacts import manifests
from foundry_ray.clock import SystemClock
from foundry_ray.config import SigningKeys
from foundry_ray.errors import ConfigError
from foundry_ray.protocols import ArtifactStore, Clock
from foundry_ray.registry import moves, naming, promoting, reading, records, signatures, tagging
from foundry_ray.registry.moves import AliasMove
from foundry_ray.registry.series import Note, write_note
from foundry_ray.types import RegistryEntry


class Registry:
    """The registry of one store.

    Args:
        store: Where.
        by: Who changes it, for the histories: user@host.
        clock: Dates the changes; the system's where absent.
    """

    def __init__(self, store: ArtifactStore, *, by: str = "unknown", clock: Clock | None = None) -> None:
        self._store = store
        self._by = by
        self._clock = clock or SystemClock()

    def names(self) -> tuple[str, ...]:
        """All registered names, sorted."""
        return records.names(self._store)

    def versions(self, name: str) -> tuple[RegistryEntry, ...]:
        """All versions of a name, oldest first."""
        return reading.versions(self._store, name)

    def resolve(self, reference: str) -> RegistryEntry:
        """The version behind `name@alias`, `name:version` or `name`."""
        return reading.resolve(self._store, reference)

    def show(self, reference: str) -> RegistryEntry:
        """As `resolve`, with all its aliases and tags."""
        return reading.show(self._store, reference)

    def history(self, name: str, alias: str = naming.CHAMPION) -> tuple[AliasMove, ...]:
        """Where an alias pointed, oldest first."""
        return moves.history(self._store, name, alias)

    def set_alias(self, name: str, alias: str, version: int, *, reason: str = "") -> AliasMove:
        """Point an alias at a version."""
        return promoting.promote(self._store, name, version, alias=alias, note=self._note(reason), kind="set")

    def promote(self, name: str, version: int, *, alias: str = naming.CHAMPION, reason: str = "", expect: int | None = None) -> AliasMove:
        """Point an alias at a version; with `expect`, only from there."""
        return promoting.promote(self._store, name, version, alias=alias, note=self._note(reason), expect=expect)

    def rollback(self, name: str, *, alias: str = naming.CHAMPION, to: int | None = None, reason: str = "") -> AliasMove:
        """Point an alias at the version before, or at an earlier one."""
        return promoting.rollback(self._store, name, alias=alias, to=to, note=self._note(reason))

    def tag(self, reference: str, tags: Mapping[str, str], *, remove: Collection[str] = ()) -> dict[str, str]:
        """Set and remove tags; returns all of them."""
        entry = self.resolve(reference)
        return tagging.tag(self._store, entry.name, entry.version, tags, remove=remove, note=self._note(""))

    def pull(self, reference: str, directory: Path) -> dict[str, Path]:
        """The files of a version into a folder, verified."""
        return pull(self._store, self.resolve(reference), directory)

    def _note(self, reason: str) -> Note:
        return write_note(self._clock, by=self._by, reason=reason)


def pull(store: ArtifactStore, entry: RegistryEntry, directory: Path, *, keys: SigningKeys | None = None) -> dict[str, Path]:
    """The files of a version into a folder, each verified. Returns paths by name.

    Raises:
        SignatureInvalid: A key to check with is set, and the version is not signed by it; nothing was written.
        ArtifactCorrupt: A file is not the one that was registered.
        ConfigError: The folder cannot be written.
    """
    signatures.check_entry(store, entry, keys=keys)
    try:
        return manifests.fetch(store, entry.model.artifact.key, directory)
    except OSError as error:
        message = f"{entry.name}:{entry.version} cannot be written into {directory}: {error.strerror}."
        raise ConfigError(message, hint="name another folder; it is made where it is new.") from error
