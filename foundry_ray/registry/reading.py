"""From a reference to what is registered. Each function says how many requests it costs, whatever the number of versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from foundry_ray.protocols import ArtifactStore
from foundry_ray.registry import moves, naming, records, series, tagging
from foundry_ray.registry.moves import Pointer
from foundry_ray.types import RegistryEntry


def resolve(store: ArtifactStore, reference: str) -> RegistryEntry:
    """The version behind `name@alias`, `name:version`, or `name`, which means `name@champion`.

    Of aliases it names the one that was asked for, and of tags none: `show` finds all. Four requests by alias, three by version; up to two
    more for what foundry 0.1 registered (format 1), and one a further thousand moves of the alias.

    Raises:
        ConfigError: The reference has another form.
        ArtifactNotFound: With the names, versions or aliases that there are.
    """
    parsed = naming.parse(reference)
    name, version = parsed.name, parsed.version
    if version is not None:
        record = records.load_version(store, name, version)
        return records.entry_of(name, version, record, records.newest_verdict(store, name, version))
    pointer = moves.newest(store, name, parsed.alias)
    if pointer is None:
        raise moves.unknown_alias(store, name, parsed.alias)
    return _followed(store, name, pointer, aliases=(parsed.alias,))


def show(store: ArtifactStore, reference: str) -> RegistryEntry:
    """As `resolve`, with all aliases and tags. Five requests, one an alias of the name, and one where only `versions/` holds the version.

    Raises:
        ConfigError, ArtifactNotFound: As `resolve`.
    """
    parsed = naming.parse(reference)
    name, version = parsed.name, parsed.version
    pointers = moves.aliases(store, name)
    if version is None:
        if parsed.alias not in pointers:
            raise moves.unknown_alias(store, name, parsed.alias)
        version = pointers[parsed.alias].move.version
    pointing = {alias: pointer for alias, pointer in pointers.items() if pointer.move.version == version}
    tags = tagging.read_tags(store, name, version)
    if pointing:
        return _followed(store, name, next(iter(pointing.values())), aliases=tuple(pointing), tags=tags)
    record = records.load_version(store, name, version)
    return records.entry_of(name, version, record, records.newest_verdict(store, name, version), tags=tags)


def versions(store: ArtifactStore, name: str) -> tuple[RegistryEntry, ...]:
    """All versions of a name, oldest first, without their lineage.

    One request a thousand objects of the name, one an alias, and two or three a version (the model, the newest verdict, the tags), several
    at a time. Raises ArtifactNotFound for an unknown name.
    """
    naming.check_name(name, "model name")
    keys = [info.key for info in store.list(f"registry/{name}/")]
    numbers = sorted(found for key in keys if key.startswith(f"{naming.version_folder(name)}/") and (found := series.number_of(key)) is not None)
    if not numbers:
        records.known_versions(store, name)  # raises, and names what there is
    verdicts, tags = (_newest_of(keys, f"registry/{name}/{kind}/") for kind in ("reports", "tags"))
    pointers = moves.read_pointers(store, name, (key for key in keys if key.startswith(f"{naming.aliases_folder(name)}/")))

    def entry(version: int) -> RegistryEntry:
        record = series.load(records.Version, store, series.key_of(naming.version_folder(name), version))
        return records.entry_of(
            name,
            version,
            _without_lineage(record),
            series.load(records.Verdict, store, verdicts[version]) if version in verdicts else None,
            aliases=tuple(alias for alias, pointer in pointers.items() if pointer.move.version == version),
            tags=series.load(tagging.Tags, store, tags[version]).tags if version in tags else None,
        )

    return tuple(series.gather(entry, numbers))


def _without_lineage(record: records.Version) -> records.Version:
    return records.Version(model=record.model, run_id=record.run_id, created_at=record.created_at)


def _newest_of(keys: Iterable[str], prefix: str) -> dict[int, str]:
    """Of the series of each version, the last key: {version: key}."""
    newest: dict[int, tuple[int, str]] = {}
    for key in keys:
        folder, _, _ = key.rpartition("/")
        version, number = series.number_of(folder), series.number_of(key)
        if key.startswith(prefix) and version is not None and number is not None:
            newest[version] = max(newest.get(version, (0, "")), (number, key))
    return {version: key for version, (_, key) in newest.items()}


def _followed(store: ArtifactStore, name: str, pointer: Pointer, *, aliases: tuple[str, ...], tags: Mapping[str, str] | None = None) -> RegistryEntry:
    version = pointer.move.version
    record = pointer.target or records.load_version(store, name, version)
    return records.entry_of(name, version, record, records.newest_verdict(store, name, version), aliases=aliases, tags=tags)
