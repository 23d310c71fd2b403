"""`verify` says each point, and notices each thing that can be wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from foundry_ray import registry
from foundry_ray.config import SigningKeys
from foundry_ray.errors import ArtifactNotFound, BadRecord, StoreUnavailable
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.types import Json

from .conftest import NOTE, lineage, put_report, put_version

KEYS = SigningKeys(signing=f"hmac:{'d4' * 32}")
POINTS = ["signature", "manifest", "model.onnx", "model.onnx loads", "report", "report's model", "data set", "teacher"]
Spoil = Callable[[MemoryStore], object]


def _load(data: bytes, meta: Json) -> None:
    if data != b"one":
        raise BadRecord("onnxruntime cannot load it.", hint="export it again.")


def _whole(store: MemoryStore) -> None:
    entry = put_version(store, b"one", lineage=lineage())
    registry.sign_entry(store, entry, note=NOTE, keys=KEYS)
    for key in (lineage().dataset_key, lineage().teacher):
        store.put(key, b"{}")


def _failed(store: MemoryStore, keys: SigningKeys = KEYS) -> dict[str, str]:
    findings = registry.verify(store, "mnist@champion", load=_load, keys=keys)
    return {finding.name: finding.detail for finding in findings if not finding.is_ok and not finding.is_optional}


def test_a_whole_version_is_found_whole(store: MemoryStore) -> None:
    _whole(store)
    findings = registry.verify(store, "mnist@champion", load=_load, keys=KEYS)
    assert [finding.name for finding in findings] == POINTS
    assert all(finding.is_ok for finding in findings)


def _forget(part: str) -> Spoil:
    return lambda store: [store.objects.pop(key) for key in list(store.objects) if part in key]


def _change(part: str) -> Spoil:
    return lambda store: [store.objects.update({key: b'{"kind": "x"}'}) for key in list(store.objects) if part in key]


def _judge_another(store: MemoryStore) -> None:
    key = registry.resolve(store, "mnist").report
    other = put_version(MemoryStore(), b"other")
    put_report(store, other.model, key=key)


@pytest.mark.parametrize(
    ("spoil", "point", "detail"),
    [
        (_forget("/signatures/"), "signature", "it is not signed"),
        (_change("artifacts/model/"), "manifest", ""),
        (_change("blobs/"), "model.onnx", "has sha256"),
        (_forget("blobs/"), "model.onnx", "is not in"),
        (_forget("stages/evaluation/"), "report", "is not in"),
        (_judge_another, "report's model", "it judged model"),
        (_forget("artifacts/dataset/"), "data set", "artifacts/dataset/d.json is gone"),
        (_forget("artifacts/model/t"), "teacher", "artifacts/model/t.json is gone"),
    ],
)
def test_what_is_wrong_is_named(store: MemoryStore, spoil: Spoil, point: str, detail: str) -> None:
    _whole(store)
    spoil(store)
    failed = _failed(store)
    assert next(iter(failed)) == point
    assert detail in failed[point]


def test_a_report_that_did_not_pass_is_named_with_its_gates(store: MemoryStore) -> None:
    _whole(store)
    put_report(store, registry.resolve(store, "mnist:1").model, passed=False, key=registry.resolve(store, "mnist:1").report)
    assert _failed(store) == {"report": "not passed: accuracy_drop_points"}


def test_a_file_that_does_not_load_is_named(store: MemoryStore) -> None:
    put_version(store, b"not a graph", lineage=lineage())
    assert _failed(store, SigningKeys())["model.onnx loads"] == "onnxruntime cannot load it."


def test_what_nobody_asked_for_or_knows_is_no_failure(store: MemoryStore) -> None:
    put_version(store, b"one")
    findings = {finding.name: finding for finding in registry.verify(store, "mnist:1", load=_load, keys=SigningKeys())}
    assert [name for name, finding in findings.items() if finding.is_optional] == ["signature", "lineage"]
    assert _failed(store, SigningKeys()) == {}


def test_a_silent_store_is_no_verdict(store: MemoryStore) -> None:
    _whole(store)
    silent = FailingStore(store)

    def load(data: bytes, meta: Json) -> None:
        silent.fail("get")

    with pytest.raises(StoreUnavailable):
        registry.verify(silent, "mnist:1", load=load, keys=KEYS)
    with pytest.raises(ArtifactNotFound):
        registry.verify(store, "mnist:9", load=_load, keys=KEYS)
