"""A model that is not signed as it must be is refused before its bytes are used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from foundry_ray import registry
from foundry_ray.artifacts.manifests import read_file
from foundry_ray.config import SigningKeys
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, ConfigError, SignatureInvalid
from foundry_ray.registry.signing import make_key
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.types import RegistryEntry

from .conftest import NOTE, put_model, put_version

PAIR = make_key("ed25519")
SIGNING = SigningKeys(signing=PAIR.private)
CHECKING = SigningKeys(verifying=PAIR.public)
SHARED = SigningKeys(signing=f"hmac:{'b2' * 32}")


def _signed(store: MemoryStore, weights: bytes, keys: SigningKeys = SIGNING) -> RegistryEntry:
    model = put_model(store, weights)
    return registry.register(
        store, name="mnist", model=model, report_key="r", passed=True, run_id="run-1", clock=FakeClock(), by="ann@desk", keys=keys
    )


def _state(store: MemoryStore, entry: RegistryEntry, keys: SigningKeys) -> tuple[str, str]:
    state = registry.model_card(store, f"{entry.name}:{entry.version}", keys=keys).signature
    return state.status, state.detail


@pytest.mark.parametrize(("signing", "checking"), [(SIGNING, CHECKING), (SIGNING, SIGNING), (SHARED, SigningKeys(verifying=SHARED.signing))])
def test_what_registration_signed_is_accepted(store: MemoryStore, signing: SigningKeys, checking: SigningKeys) -> None:
    entry = _signed(store, b"one", signing)
    registry.check_entry(store, entry, keys=checking)
    assert _state(store, entry, checking)[0] == "valid"


def test_without_a_key_nothing_is_asked(store: MemoryStore) -> None:
    requests = FailingStore(store)
    registry.check_entry(requests, put_version(store, b"one"), keys=SigningKeys())
    assert requests.calls == []
    assert _state(store, registry.resolve(store, "mnist:1"), SigningKeys()) == ("unsigned", "it is not signed")
    assert _state(store, _signed(store, b"two"), SigningKeys())[0] == "unchecked"


def test_what_is_not_signed_is_refused_with_the_command_that_signs(store: MemoryStore) -> None:
    entry = put_version(store, b"one")
    with pytest.raises(SignatureInvalid, match=r"mnist:1 is not used: it is not signed, and this process asks for a signature\.") as caught:
        registry.check_entry(store, entry, keys=CHECKING)
    assert "`foundry models sign mnist:1`" in caught.value.hint
    assert caught.value.exit_code == 5
    assert registry.sign_entry(store, entry, note=NOTE, keys=SIGNING)
    registry.check_entry(store, entry, keys=CHECKING)


def test_what_a_stranger_signed_is_refused_by_name(store: MemoryStore) -> None:
    entry = _signed(store, b"one", SHARED)
    with pytest.raises(SignatureInvalid, match=r"it is signed by ann@desk at \S+ with hmac key [0-9a-f]{16}, and this process trusts ed25519 key"):
        registry.check_entry(store, entry, keys=CHECKING)


def test_one_of_several_signatures_is_enough(store: MemoryStore) -> None:
    entry = _signed(store, b"one")
    registry.sign_entry(store, entry, note=NOTE, keys=SHARED)
    registry.check_entry(store, entry, keys=CHECKING)
    registry.check_entry(store, entry, keys=SigningKeys(verifying=SHARED.signing))


@pytest.mark.parametrize("field", ["signature", "model", "version", "name"])
def test_a_signature_of_something_else_does_not_fit(store: MemoryStore, field: str) -> None:
    one, two = _signed(store, b"one"), _signed(store, b"two")
    signature, key = json.loads(store.get("registry/mnist/signatures/00000001/00000001")), "registry/mnist/signatures/00000002/00000001"
    asked = {"name": "mnist", "version": 2, "model": two.model.artifact.key}
    if field == "signature":
        store.put(key, json.dumps({**signature, "signature": "00" * 64}).encode())
    elif field == "version":
        store.put(key, json.dumps(signature).encode())
    elif field == "model":
        asked["model"] = one.model.artifact.key
    else:
        store.put("registry/fashion/signatures/00000002/00000001", store.get(key))
        asked["name"] = "fashion"
    with pytest.raises(SignatureInvalid, match="does not fit: the model, its name, its version or the signature was changed"):
        registry.check_signature(store, keys=CHECKING, **asked)  # type: ignore[arg-type]


def test_a_signature_that_cannot_be_read_is_none(store: MemoryStore) -> None:
    entry = _signed(store, b"one")
    store.put("registry/mnist/signatures/00000001/00000001", b"{")
    with pytest.raises(SignatureInvalid, match="it is not signed"):
        registry.check_entry(store, entry, keys=CHECKING)


def test_a_key_signs_a_version_once(store: MemoryStore) -> None:
    entry = _signed(store, b"one")
    _signed(store, b"one")
    assert registry.sign_entry(store, entry, note=NOTE, keys=SIGNING) is False
    assert len(list(store.list("registry/mnist/signatures/"))) == 1


def test_signing_without_a_key_says_how_to_get_one(store: MemoryStore) -> None:
    with pytest.raises(ConfigError, match="there is no key to sign with") as caught:
        registry.sign_entry(store, put_version(store, b"one"), note=NOTE, keys=SigningKeys())
    assert "`foundry models keygen -o FILE`" in caught.value.hint


def test_the_champion_is_signed_before_it_is_the_champion(store: MemoryStore) -> None:
    requests = FailingStore(store)
    _signed(requests, b"one")  # type: ignore[arg-type]
    written = [key for verb, key in requests.calls if verb == "put"]
    assert written.index("registry/mnist/signatures/00000001/00000001") < written.index("registry/mnist/aliases/champion/00000001")


def test_a_version_that_names_another_model_is_not_signed(store: MemoryStore) -> None:
    put_version(store, b"one")
    other, key = put_model(store, b"evil").artifact.key, "registry/mnist/versions/00000001"
    store.put(key, store.get(key).replace(registry.resolve(store, "mnist:1").model.artifact.key.encode(), other.encode()))
    with pytest.raises(ArtifactCorrupt, match="it is not signed"):
        _signed(store, b"one")
    assert list(store.list("registry/mnist/signatures/")) == []


def test_another_generation_of_a_registered_manifest_is_the_same_version(store: MemoryStore) -> None:
    put_version(store, b"one")
    model = put_model(store, b"one")
    later = replace(model, artifact=replace(model.artifact, key=model.artifact.key.replace(".json", ".1.json")))
    entry = registry.register(store, name="mnist", model=later, report_key="r", passed=True, run_id="r", clock=FakeClock(), keys=SIGNING)
    assert (entry.version, entry.model.artifact.key) == (1, model.artifact.key)
    registry.check_entry(store, entry, keys=CHECKING)


def test_what_is_not_signed_is_not_pulled(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(SignatureInvalid):
        registry.pull(store, put_version(store, b"one"), tmp_path / "pulled", keys=CHECKING)
    assert not (tmp_path / "pulled").exists()


def test_no_key_is_in_anything_that_is_stored(store: MemoryStore) -> None:
    for keys in (SIGNING, SHARED):
        _signed(store, b"one", keys)
    secrets = [str(keys.signing).rpartition(":")[2].encode() for keys in (SIGNING, SHARED)]
    assert not any(secret in data for secret in secrets for data in store.objects.values())


class _Going(MemoryStore):
    """One object goes after it was listed."""

    gone = ""

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        if key == self.gone:
            raise ArtifactNotFound("gone", hint="", key=key)
        return super().get(key, start=start, size=size)


def test_a_signature_that_goes_while_it_is_looked_for_is_none() -> None:
    store = _Going()
    entry = _signed(store, b"one")
    registry.sign_entry(store, entry, note=NOTE, keys=SHARED)
    store.gone = "registry/mnist/signatures/00000001/00000002"
    registry.check_entry(store, entry, keys=CHECKING)


def test_where_the_bytes_lie_is_not_signed_and_changes_nothing(store: MemoryStore) -> None:
    entry, key = _signed(store, b"one"), registry.resolve(store, "mnist:1").model.artifact.key
    store.put("blobs/sha256/" + "ab/" + "ab" * 32, b"evil")
    document = json.loads(store.get(key))
    document["files"]["model.onnx"] |= {"pack": "ab" * 32, "offset": 0}
    store.put(key, json.dumps(document).encode())
    registry.check_entry(store, entry, keys=CHECKING)
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx has sha256"):
        read_file(store, key, "model.onnx")
