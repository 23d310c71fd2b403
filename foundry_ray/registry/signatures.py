"""Signatures of versions: what is signed, where it lies, and the check that comes before a model's bytes are used.

Signed are the name, the version, and the manifest's key and hash. The manifest binds every file by its sha256, so that a valid signature holds
the whole model; and one of another version, or of another name, does not fit. Not signed is what changes: where aliases point, what reports say,
and where in the store the bytes lie. Who can write the store can still offer an older version that was signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from foundry_ray.artifacts.manifests import artifact_sha256
from foundry_ray.config import SigningKeys, signing_keys
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, ConfigError, SignatureInvalid
from foundry_ray.protocols import ArtifactStore
from foundry_ray.registry import naming, series
from foundry_ray.registry.series import Note
from foundry_ray.registry.signing import Keyring, Signer, Verifier, open_keyring
from foundry_ray.types import ArtifactRef, Json, RegistryEntry, canonical_bytes, to_json

_FORMAT = 1
_MAX_READ = 100
_CONTEXT = b"foundry-ray model signature\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature. `statement` repeats what was signed, for people; the check makes its own."""

    kind: str
    key_id: str
    signature: str
    statement: Json
    by: str = "unknown"
    at: str = ""
    format_version: int = _FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureState:
    """What can be said of a version's signatures here.

    unsigned: there is none; unchecked: there is one and no key to check it with; valid: a key of this process says yes; invalid: none does.
    """

    status: Literal["unsigned", "unchecked", "valid", "invalid"]
    detail: str


def open_keys(keys: SigningKeys | None = None) -> Keyring:
    """The keyring of these keys, or of the environment's. Raises ConfigError."""
    return open_keyring(signing_keys() if keys is None else keys)


def sign(store: ArtifactStore, name: str, version: int, model: ArtifactRef, *, signer: Signer, note: Note) -> bool:
    """Sign a version, unless this key has signed it. Three requests, and one a signature that there is. Whether it was signed now."""
    statement = _statement(name, version, model.key)
    if any(_is_signed_by(signer, found, statement) for found in _signatures(store, name, version)):
        return False
    signature = Signature(
        kind=signer.kind,
        key_id=signer.key_id,
        signature=signer.sign(_message(statement)),
        statement=statement,
        by=note.by,
        at=note.at,
    )
    series.append(store, naming.signature_folder(name, version), lambda newest: to_json(signature))
    return True


def sign_entry(store: ArtifactStore, entry: RegistryEntry, *, note: Note, keys: SigningKeys | None = None) -> bool:
    """Sign a registered version with the environment's key. Raises ConfigError where there is none. Whether it was signed now."""
    signer = open_keys(keys).signer
    if signer is None:
        message = "there is no key to sign with, wanted FOUNDRY_SIGNING_KEY or FOUNDRY_SIGNING_KEY_FILE."
        raise ConfigError(message, hint="`foundry models keygen -o FILE` makes a key; `export FOUNDRY_SIGNING_KEY_FILE=FILE` names it.")
    return sign(store, entry.name, entry.version, entry.model.artifact, signer=signer, note=note)


def check_signature(store: ArtifactStore, *, name: str, version: int, model: str, keys: SigningKeys | None = None) -> None:
    """Refuse a model whose version was not signed by a key that this process trusts. Without such a key, nothing is asked.

    One request, and one a signature until one is valid, newest first.

    Args:
        store: Where.
        name: The registered name.
        version: The registered version.
        model: Key of the model's manifest, which is about to be used.
        keys: What the environment says; read from there where absent.

    Raises:
        SignatureInvalid: It is not signed, or by nobody whom this process trusts.
        ConfigError: A key is none.
    """
    verifiers = open_keys(keys).verifiers
    if not verifiers:
        return
    state = _judged(store, name, version, model, verifiers)
    if state.status != "valid":
        hint = (
            f"`foundry models sign {name}:{version}` signs it with FOUNDRY_SIGNING_KEY; `foundry models verify {name}:{version}` looks at all of it."
        )
        raise SignatureInvalid(f"{name}:{version} is not used: {state.detail}.", hint=hint, model=f"{name}:{version}", reason=state.detail)


def check_entry(store: ArtifactStore, entry: RegistryEntry, *, keys: SigningKeys | None = None) -> None:
    """`check_signature` of a registered version."""
    check_signature(store, name=entry.name, version=entry.version, model=entry.model.artifact.key, keys=keys)


def signature_state(store: ArtifactStore, entry: RegistryEntry, *, keys: SigningKeys | None = None) -> SignatureState:
    """What can be said of a version's signatures. One request, and one a signature until one is valid."""
    verifiers = open_keys(keys).verifiers
    if verifiers:
        return _judged(store, entry.name, entry.version, entry.model.artifact.key, verifiers)
    found = next(_signatures(store, entry.name, entry.version), None)
    if found is None:
        return SignatureState(status="unsigned", detail="it is not signed")
    return SignatureState(status="unchecked", detail=f"signed {_by(found)}, not checked: no FOUNDRY_VERIFY_KEY is set")


def _judged(store: ArtifactStore, name: str, version: int, model: str, verifiers: tuple[Verifier, ...]) -> SignatureState:
    statement = _statement(name, version, model)
    newest: Signature | None = None
    for found in _signatures(store, name, version):
        if any(_is_signed_by(verifier, found, statement) for verifier in verifiers):
            return SignatureState(status="valid", detail=f"signed {_by(found)}")
        newest = newest or found
    if newest is None:
        return SignatureState(status="unsigned", detail="it is not signed, and this process asks for a signature")
    trusted = ", ".join(f"{verifier.kind} key {verifier.key_id}" for verifier in verifiers)
    if newest.key_id not in {verifier.key_id for verifier in verifiers}:
        return SignatureState(status="invalid", detail=f"it is signed {_by(newest)}, and this process trusts {trusted}")
    return SignatureState(
        status="invalid", detail=f"the signature {_by(newest)} does not fit: the model, its name, its version or the signature was changed"
    )


def _is_signed_by(verifier: Verifier, found: Signature, statement: Json) -> bool:
    return (found.kind, found.key_id) == (verifier.kind, verifier.key_id) and verifier.is_valid(_message(statement), found.signature)


def _signatures(store: ArtifactStore, name: str, version: int) -> Iterator[Signature]:
    """The newest hundred, newest first; what cannot be read is no signature."""
    folder = naming.signature_folder(name, version)
    for number in reversed(series.numbers(store, folder)[-_MAX_READ:]):
        try:
            yield series.load(Signature, store, series.key_of(folder, number))
        except (ArtifactCorrupt, ArtifactNotFound):
            continue


def _statement(name: str, version: int, model: str) -> Json:
    """What is signed. The key of a manifest names its hash, which every read of it checks."""
    return {"format": _FORMAT, "name": name, "version": version, "manifest": model, "sha256": artifact_sha256(model)}


def _message(statement: Json) -> bytes:
    return _CONTEXT + canonical_bytes(statement)


def _by(signature: Signature) -> str:
    return f"by {signature.by} at {signature.at} with {signature.kind} key {signature.key_id}"
