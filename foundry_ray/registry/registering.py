"""How a model becomes a version, and a version that passed the champion."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from foundry_ray.artifacts.manifests import artifact_sha256, put_json
from foundry_ray.config import SigningKeys
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, Conflict
from foundry_ray.protocols import ArtifactStore, Clock
from foundry_ray.registry import moves, naming, reading, records, series, signatures
from foundry_ray.registry.naming import CHAMPION
from foundry_ray.registry.promoting import promote
from foundry_ray.registry.records import Verdict, Version
from foundry_ray.registry.series import Note
from foundry_ray.types import ArtifactRef, Json, Lineage, ModelArtifact, RegistryEntry, to_json


def register(
    store: ArtifactStore,
    *,
    name: str,
    model: ModelArtifact,
    report_key: str,
    passed: bool,
    run_id: str,
    clock: Clock,
    lineage: Lineage | None = None,
    by: str = "unknown",
    keys: SigningKeys | None = None,
) -> RegistryEntry:
    """Give a model a version under `name`, sign it, and make it champion if it passed.

    The same model has one version, however often it is registered; another report about it is added to that version and counts from then on.
    Registering again without news moves no alias, so that a rollback stays. Twenty requests, and one or two a thousand versions.

    Args:
        store: Where.
        name: The name; it is made where it is new.
        model: A published model.
        report_key: Key of the evaluation that judged it.
        passed: What the gates said.
        run_id: The run that made it.
        clock: Dates what is written.
        lineage: What it was made of; kept with the version.
        by: user@host, for the histories.
        keys: What the environment says of signatures (read from there where absent); without a signing key nothing is signed.

    Raises:
        ConfigError: The name is none, or the signing key is none.
        Conflict: Others moved the champion at the same moment; the version is registered.
    """
    naming.check_name(name, "model name")
    created_at = datetime.fromtimestamp(clock.now_s(), UTC).isoformat(timespec="seconds")
    note = Note(by=by, at=created_at, reason=f"registered by run {run_id}" if run_id else "registered")
    signer = signatures.open_keys(keys).signer
    version = _version_of(store, name, Version(model=model, run_id=run_id, created_at=created_at, lineage=lineage))
    with suppress(Conflict):
        put_json(store, f"{naming.NAMES}/{name}", {"format_version": 1, "created_at": created_at}, if_absent=True)
    if signer is not None:  # before any alias points at it: who follows one finds the signature
        signatures.sign(store, name, version, _as_registered(store, name, version, model), signer=signer, note=note)
    is_news = records.add_verdict(store, name, version, Verdict(report=report_key, passed=passed, run_id=run_id, created_at=created_at))
    if passed and (is_news or not _was_champion(store, name, version)):
        promote(store, name, version, note=note, kind="register")
    return reading.show(store, f"{name}:{version}")


def adopt(store: ArtifactStore, *, name: str, record: Version, verdicts: Sequence[Verdict]) -> int:
    """Give a version that comes from another store a number here. No alias moves, and nothing is signed.

    Args:
        store: Where.
        name: The name; it is made where it is new.
        record: The version, whose model is published here.
        verdicts: What its evaluations said, oldest first; they count only where nothing is said of the version here.

    Returns:
        The number: that of the version that holds the same model, or a new one.
    """
    naming.check_name(name, "model name")
    version = _version_of(store, name, record)
    with suppress(Conflict):
        put_json(store, f"{naming.NAMES}/{name}", {"format_version": 1, "created_at": record.created_at}, if_absent=True)
    if records.newest_verdict(store, name, version) is None:
        for verdict in verdicts:
            records.add_verdict(store, name, version, verdict)
    return version


def _as_registered(store: ArtifactStore, name: str, version: int, model: ModelArtifact) -> ArtifactRef:
    """Where the version says that this model lies: another generation of the same manifest, perhaps. Raises ArtifactCorrupt for another model."""
    found = records.load_version(store, name, version, is_whole=False).model.artifact
    actual, expected = artifact_sha256(found.key), artifact_sha256(model.artifact.key)
    if actual == expected:
        return found
    key = series.key_of(naming.version_folder(name), version)
    message = f"{key} says that it holds model {expected[:12]} and names manifest {actual[:12]}; it is not signed."
    raise ArtifactCorrupt(message, hint=f"`foundry models verify {name}:{version}`.", key=key, expected=expected, actual=actual)


def _was_champion(store: ArtifactStore, name: str, version: int) -> bool:
    return version in {move.version for move in moves.history(store, name, CHAMPION)}


def _version_of(store: ArtifactStore, name: str, wanted: Version) -> int:
    """The version that holds this model: one that there is, or a new one."""
    folder = naming.version_folder(name)
    seen: set[int] = set()
    found = 0

    def document(newest: int) -> Json:
        nonlocal found
        hashes = _hashes(store, name)
        for number in range(newest, 0, -1):
            if number not in seen and _is_model(store, name, number, wanted.model, hashes.get(number)):
                found = number
                return None
            seen.add(number)
        return to_json(wanted)

    version = series.append(store, folder, document)
    if not found:
        _index(store, name, version, wanted.model)
    return found or version


def _hashes(store: ArtifactStore, name: str) -> dict[int, str]:
    """{version: hash of its model}, from the keys of an index: one request a thousand versions instead of one a version."""
    found = {}
    for info in store.list(f"{naming.index_folder(name)}/"):
        number, _, sha256 = info.key.rpartition("/")[2].partition("-")
        found[int(number)] = sha256
    return found


def _is_model(store: ArtifactStore, name: str, number: int, model: ModelArtifact, sha256: str | None) -> bool:
    if sha256 is not None and sha256 != model.artifact.sha256:
        return False
    try:
        found = series.load(Version, store, series.key_of(naming.version_folder(name), number)).model
    except ArtifactNotFound:
        return False  # a number that was never given
    if sha256 is None:
        _index(store, name, number, found)
    return found.artifact.sha256 == model.artifact.sha256


def _index(store: ArtifactStore, name: str, version: int, model: ModelArtifact) -> None:
    """Note the hash of a version's model in a key. The version stays the truth: an entry that is missing costs a request, and is mended."""
    put_json(store, f"{naming.index_folder(name)}/{version:08d}-{model.artifact.sha256}", {"format_version": 1})
