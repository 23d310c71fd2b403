"""How a model becomes a version, and a version that passed the champion."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from foundry_ray.artifacts.manifests import artifact_sha256, put_json
from foundry_ray.config import SigningKeys
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, Conflict, RolloutRejected
from foundry_ray.protocols import ArtifactStore, Clock
from foundry_ray.registry import moves, naming, reading, records, series, signatures
from foundry_ray.registry.naming import CHAMPION
from foundry_ray.registry.promoting import promote
from foundry_ray.registry.records import Verdict, Version
from foundry_ray.registry.series import write_note
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
    Registering again without news moves no alias, so that a rollback stays; unless nobody has moved it since the news, because then the
    registration that brought them broke off before it did. 22 requests, one an alias, and two a thousand versions; without news, one a move of
    the champion.

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
    note = write_note(clock, by=by, reason=f"registered by run {run_id}" if run_id else "registered")
    created_at = note.at
    signer = signatures.open_keys(keys).signer
    version = _version_of(store, name, Version(model=model, run_id=run_id, created_at=created_at, lineage=lineage))
    with suppress(Conflict):
        put_json(store, f"{naming.NAMES}/{name}", {"format_version": 1, "created_at": created_at}, if_absent=True)
    if signer is not None:  # before any alias points at it: who follows one finds the signature
        signatures.sign(store, name, version, _as_registered(store, name, version, model), signer=signer, note=note)
    verdict = Verdict(report=report_key, passed=passed, run_id=run_id, created_at=created_at, after_move=moves.newest_number(store, name, CHAMPION))
    counting = records.add_verdict(store, name, version, verdict)
    if passed and (counting.after_move == verdict.after_move or not _was_champion(store, name, version)):
        with suppress(RolloutRejected):  # another report came in between, and did not pass
            promote(store, name, version, note=note, kind="register")
    return reading.show(store, f"{name}:{version}")


def adopt(store: ArtifactStore, *, name: str, record: Version, verdicts: Sequence[Verdict]) -> int:
    """Give a version that comes from another store a number here. No alias moves, and nothing is signed.

    Args:
        store: Where.
        name: The name; it is made where it is new.
        record: The version, whose model is published here.
        verdicts: What its evaluations said, oldest first. The last one counts, and only where nothing is said of the version here; it alone is
            written, because an import that breaks off between two would leave an older one counting.

    Returns:
        The number: that of the version that holds the same model, or a new one.
    """
    naming.check_name(name, "model name")
    version = _version_of(store, name, record)
    with suppress(Conflict):
        put_json(store, f"{naming.NAMES}/{name}", {"format_version": 1, "created_at": record.created_at}, if_absent=True)
    if verdicts and records.newest_verdict(store, name, version) is None:
        records.add_verdict(store, name, version, replace(verdicts[-1], after_move=None))
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
    try:
        return version in {move.version for move in moves.history(store, name, CHAMPION)}
    except ArtifactNotFound:
        return False  # nothing was


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
        key, _, sha256 = info.key.rpartition("-")
        number = series.number_of(key)
        if number is not None:
            found[number] = sha256
    return found


def _is_model(store: ArtifactStore, name: str, number: int, model: ModelArtifact, sha256: str | None) -> bool:
    if sha256 is not None and sha256 != model.artifact.sha256:
        return False
    try:
        found = series.load(Version, store, series.key_of(naming.version_folder(name), number)).model
    except (ArtifactNotFound, ArtifactCorrupt):
        return False  # a number that was never given, or one that nobody can read any more: the model gets another
    if sha256 is None:
        _index(store, name, number, found)
    return found.artifact.sha256 == model.artifact.sha256


def _index(store: ArtifactStore, name: str, version: int, model: ModelArtifact) -> None:
    """Note the hash of a version's model in a key. The version stays the truth: an entry that is missing costs a request, and is mended."""
    put_json(store, f"{naming.index_folder(name)}/{version:08d}-{model.artifact.sha256}", {"format_version": 1})
