"""A replica checks signatures itself, with a key of its own environment."""

from __future__ import annotations

import json

import pytest

from foundry_ray import registry
from foundry_ray.artifacts import manifests
from foundry_ray.config import ServeConfig, Settings, SigningKeys, StoreConfig
from foundry_ray.errors import SignatureInvalid
from foundry_ray.serving.servable import Servable, load_servable
from foundry_ray.serving.spec import ReplicaSpec, spec_of
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.types import CompressionRecipe, ModelArtifact, RegistryEntry

from .conftest import FakeRuntime

KEYS = SigningKeys(signing=f"hmac:{'f6' * 32}")


@pytest.fixture
def entry(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> RegistryEntry:
    monkeypatch.setattr("foundry_ray.inference.open_shipped", lambda onnx, meta, threads: FakeRuntime())
    artifact = manifests.publish(store, kind="model", files={"model.onnx": b"graph"}, created_at="")
    model = ModelArtifact(artifact=artifact, family="resnet", num_params=1, num_macs=1, size_bytes=5, recipe=CompressionRecipe())
    return registry.register(store, name="mnist", model=model, report_key="r", passed=True, run_id="r", clock=FakeClock(), keys=SigningKeys())


def _spec(entry: RegistryEntry, *, signed: bool) -> ReplicaSpec:
    return spec_of(entry, ServeConfig(), store=StoreConfig(uri="s3://b/p"), settings=Settings(), signed=signed)


def _load(entry: RegistryEntry, store: object, keys: SigningKeys | None, *, signed: bool = True) -> Servable:
    return load_servable(_spec(entry, signed=signed), store, keys)  # type: ignore[arg-type]


def test_a_signed_model_is_served(store: MemoryStore, entry: RegistryEntry) -> None:
    registry.sign_entry(store, entry, note=registry.Note(), keys=KEYS)
    assert _load(entry, store, KEYS).signature.version == "1"


def test_a_model_that_is_not_signed_is_refused_before_its_bytes_are_read(store: MemoryStore, entry: RegistryEntry) -> None:
    asked = FailingStore(store)
    with pytest.raises(SignatureInvalid, match="mnist:1 is not used: it is not signed"):
        _load(entry, asked, KEYS)
    assert not [key for _, key in asked.calls if key.startswith(("artifacts/", "blobs/"))]


def test_a_replica_without_a_key_does_not_serve_what_was_deployed_with_one(store: MemoryStore, entry: RegistryEntry) -> None:
    registry.sign_entry(store, entry, note=registry.Note(), keys=KEYS)
    with pytest.raises(SignatureInvalid, match="its signature was checked where it was deployed, and this process has no key") as caught:
        _load(entry, store, SigningKeys())
    assert "set FOUNDRY_VERIFY_KEY on the machines of the cluster" in caught.value.hint
    assert _load(entry, store, SigningKeys(), signed=False).signature.version == "1"


def test_a_replica_reads_its_own_environment(store: MemoryStore, entry: RegistryEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_VERIFY_KEY", str(KEYS.signing))
    with pytest.raises(SignatureInvalid):
        _load(entry, store, None, signed=False)
    registry.sign_entry(store, entry, note=registry.Note(), keys=KEYS)
    assert _load(entry, store, None)


def test_the_spec_that_goes_through_ray_holds_no_key(entry: RegistryEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_SIGNING_KEY", str(KEYS.signing))
    assert "f6f6" not in json.dumps(_spec(entry, signed=True).model_dump(mode="json"))
