"""What a replay reads of a version, and what it says where that is not there."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from foundry_ray.artifacts.manifests import publish
from foundry_ray.errors import ArtifactNotFound, ConfigError
from foundry_ray.replay import find_original
from foundry_ray.testing import samples
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import Lineage

from .conftest import put_version


def test_the_original_is_its_files_its_report_and_its_configuration(store: MemoryStore, lineage: Lineage) -> None:
    put_version(store, lineage)
    original = find_original(store, "mnist@champion")
    making = original.making
    found = (making.teacher_weights, making.student_weights, making.served_file)
    assert found == tuple(hashlib.sha256(data).hexdigest() for data in (b"teacher", b"student", b"served"))
    assert (making.data_fingerprint, making.report) == ("f" * 64, samples.report())
    assert (original.name, original.config.seed, original.lineage.trial.number) == ("mnist:1", 3, 0)


def test_a_version_without_lineage_and_without_its_run_is_refused(store: MemoryStore) -> None:
    put_version(store, None)
    with pytest.raises(ArtifactNotFound, match=r"mnist:1 has no lineage.*the record of its run run-1 is gone") as caught:
        find_original(store, "mnist:1")
    assert caught.value.exit_code == 2
    assert "`foundry run`" in caught.value.hint


def test_a_configuration_of_another_foundry_names_the_lineage(store: MemoryStore, lineage: Lineage) -> None:
    put_version(store, replace(lineage, config={"name": "mnist", "data": {"source": "mnist_5k"}, "future": 1}))
    with pytest.raises(ConfigError, match="the lineage of mnist:1"):
        find_original(store, "mnist:1")


def test_a_teacher_that_the_store_forgot_cannot_be_reused(store: MemoryStore, lineage: Lineage) -> None:
    put_version(store, lineage)
    original = find_original(store, "mnist:1")
    with pytest.raises(ArtifactNotFound, match=r"the teacher result of mnist:1 is not in memory:// any more") as caught:
        original.teacher(store)
    assert caught.value.hint == "without `--only` it is made again."


def test_a_lineage_without_its_stages_is_refused(store: MemoryStore, lineage: Lineage) -> None:
    put_version(store, replace(lineage, stages={"data": "d" * 32}))
    with pytest.raises(ArtifactNotFound, match="the lineage of mnist:1 lacks the keys of the stages student, teacher"):
        find_original(store, "mnist:1")


def test_an_artifact_without_weights_cannot_be_compared(store: MemoryStore, lineage: Lineage) -> None:
    teacher = publish(store, kind="model", files={"model.onnx": b"teacher"}, created_at="")
    put_version(store, replace(lineage, teacher=teacher.key))
    with pytest.raises(ArtifactNotFound, match=r"has no file 'model\.safetensors', wanted its hash; it has model\.onnx\."):
        find_original(store, "mnist:1")
