"""Who may read which split."""

from __future__ import annotations

import pytest

from foundry_ray import data
from foundry_ray.config import DataConfig, SplitConfig
from foundry_ray.data.preparing import prepare_raw
from foundry_ray.errors import ArtifactCorrupt, DataError
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import DatasetRef

from .conftest import MakeRaw

FROZEN = "ab" * 32


@pytest.fixture
def ref(make_raw: MakeRaw, store: MemoryStore, reporter: RecordingReporter) -> DatasetRef:
    config = DataConfig(source="tiny", split=SplitConfig(train=24, val=8, test=8))
    return prepare_raw(make_raw(), config, task="image_classification", seed=0, store=store, reporter=reporter)


def test_test_does_not_open_without_a_frozen_candidate(ref: DatasetRef, store: MemoryStore, clock: FakeClock) -> None:
    with pytest.raises(DataError, match="load_split got 'test', wanted train or val"):
        data.load_split(ref, "test", store=store)
    with pytest.raises(DataError, match="got 'mnist@champion', wanted the sha256 of its artifact"):
        data.open_test(ref, store=store, frozen_sha256="mnist@champion", clock=clock)
    assert data.num_test_openings(ref, store) == 0


def test_each_opening_is_logged_and_counted(ref: DatasetRef, store: MemoryStore, clock: FakeClock) -> None:
    assert len(data.open_test(ref, store=store, frozen_sha256=FROZEN, clock=clock).labels_N) == 8
    data.open_test(ref, store=store, frozen_sha256=FROZEN, clock=clock)
    data.open_test(ref, store=store, frozen_sha256="cd" * 32, clock=clock)
    assert data.num_test_openings(ref, store) == 3
    assert f"test_openings/{ref.fingerprint}/{FROZEN}/000001.json" in store.objects


def test_an_opening_is_never_written_over(ref: DatasetRef, store: MemoryStore, clock: FakeClock) -> None:
    store.put(f"test_openings/{ref.fingerprint}/{FROZEN}/000001.json", b"{}")
    data.open_test(ref, store=store, frozen_sha256=FROZEN, clock=clock)
    assert store.objects[f"test_openings/{ref.fingerprint}/{FROZEN}/000001.json"] == b"{}"
    assert data.num_test_openings(ref, store) == 2


def test_an_unknown_split_is_refused(ref: DatasetRef, store: MemoryStore) -> None:
    with pytest.raises(DataError, match="there is no split 'dev', wanted one of train, val"):
        data.load_split(ref, "dev", store=store)


def test_changed_bytes_are_never_returned(ref: DatasetRef, store: MemoryStore) -> None:
    for key in store.objects:
        if key.startswith("blobs/"):
            store.objects[key] = store.objects[key][:-1] + b"\xff"
    with pytest.raises(ArtifactCorrupt):
        data.load_split(ref, "train", store=store)
