"""From raw records to a prepared data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foundry_ray import data
from foundry_ray.config import CleanConfig, DataConfig, Settings, SplitConfig
from foundry_ray.data.preparing import prepare_raw
from foundry_ray.errors import OutOfRange
from foundry_ray.protocols import RawData
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import DatasetRef

from .conftest import MakeRaw


def prepared(
    raw: RawData,
    store: MemoryStore,
    reporter: RecordingReporter,
    *,
    split: tuple[float, float, float] = (24, 8, 8),
    seed: int = 0,
    clean: CleanConfig | None = None,
) -> DatasetRef:
    counts = SplitConfig(train=split[0], val=split[1], test=split[2])
    config = DataConfig(source="tiny", split=counts, clean=clean or CleanConfig())
    return prepare_raw(raw, config, task="image_classification", seed=seed, store=store, reporter=reporter)


def rows_of(split: data.Split) -> set[int]:
    return set((split.images_NCHW[:, 0, 0, 0].astype(int) + 256 * split.images_NCHW[:, 0, 0, 1].astype(int)).tolist())


def test_a_folder_is_prepared_and_read_back(photos: Path, store: MemoryStore, reporter: RecordingReporter, settings: Settings) -> None:
    config = DataConfig(source=str(photos), split=SplitConfig(train=2, val=2, test=2))
    ref = data.prepare(config, task="image_classification", seed=0, store=store, settings=settings, reporter=reporter)
    split = data.load_split(ref, "train", store=store)
    assert ref.schema.classes == ("cat", "dog")
    assert sorted(split.labels_N.tolist()) == [0, 1]
    assert (split.images_NCHW[:, 0, 0, 0] // 40).tolist() == split.labels_N.tolist()
    assert reporter.warnings == []


def test_preparing_again_gives_the_same_artifact_and_another_seed_another(make_raw: MakeRaw, store: MemoryStore, reporter: RecordingReporter) -> None:
    first, again, other = (prepared(make_raw(), store, reporter, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.fingerprint != other.fingerprint


def test_a_changed_pixel_changes_the_fingerprint(make_raw: MakeRaw, store: MemoryStore, reporter: RecordingReporter) -> None:
    raw = make_raw()
    before = prepared(raw, store, reporter)
    raw.inputs_N[3, 0, 1, 1] = 9
    assert prepared(raw, store, reporter).fingerprint != before.fingerprint


def test_statistics_are_those_of_train_alone(make_raw: MakeRaw, store: MemoryStore, reporter: RecordingReporter) -> None:
    ref = prepared(make_raw(), store, reporter)
    train = data.load_split(ref, "train", store=store).images_NCHW.astype(np.float64)
    assert ref.preprocessing.mean[0] == pytest.approx(train.mean())
    assert ref.preprocessing.std[0] == pytest.approx(train.std())


def test_duplicates_are_dropped_with_a_warning_and_train_shrinks(make_raw: MakeRaw, store: MemoryStore, reporter: RecordingReporter) -> None:
    raw = make_raw()
    raw.inputs_N[39] = raw.inputs_N[0]
    raw.inputs_N[38] = raw.inputs_N[0]
    ref = prepared(raw, store, reporter)
    assert ref.splits["train"].num_rows == 22
    assert reporter.warnings == [
        "data tiny: dropped 2 of 40 rows as exact duplicates, 1 of them with another label",
        "data tiny: the train split has 22 rows, 2 fewer than asked for, because duplicates were dropped",
    ]


def test_duplicates_stay_where_that_is_asked_for(make_raw: MakeRaw, store: MemoryStore, reporter: RecordingReporter) -> None:
    raw = make_raw()
    raw.inputs_N[39] = raw.inputs_N[0]
    assert prepared(raw, store, reporter, clean=CleanConfig(duplicates="keep")).splits["train"].num_rows == 24
    assert reporter.warnings == []


def test_an_official_test_set_is_test_and_wins_over_its_copies(make_raw: MakeRaw, store: MemoryStore, reporter: RecordingReporter) -> None:
    raw = make_raw(test_from=30)
    raw.inputs_N[0] = raw.inputs_N[35]
    ref = prepared(raw, store, reporter, split=(22, 8, 10))
    test = data.open_test(ref, store=store, frozen_sha256="0" * 64, clock=FakeClock())
    assert rows_of(test) == set(range(30, 40))
    assert ref.splits["train"].num_rows == 21


def test_a_class_that_a_split_lacks_is_a_warning(make_raw: MakeRaw, store: MemoryStore, reporter: RecordingReporter) -> None:
    prepared(make_raw(num_classes=8), store, reporter, split=(30, 4, 6))
    assert [warning.split(":")[1] for warning in reporter.warnings] == [
        " the val split has no row of 4 classes",
        " the test split has no row of 2 classes",
    ]


def test_too_many_rows_are_refused(make_raw: MakeRaw, store: MemoryStore, reporter: RecordingReporter) -> None:
    with pytest.raises(OutOfRange, match="asks for 41 rows"):
        prepared(make_raw(), store, reporter, split=(25, 8, 8))


def test_a_constant_channel_does_not_divide_by_zero(make_raw: MakeRaw, store: MemoryStore, reporter: RecordingReporter) -> None:
    raw = replace(make_raw(), inputs_N=np.full((40, 1, 2, 3), 7, dtype=np.uint8))
    ref = prepared(raw, store, reporter, clean=CleanConfig(duplicates="keep"))
    assert (ref.preprocessing.mean, ref.preprocessing.std) == ((7.0,), (1.0,))
    assert "a channel of the training images is constant" in reporter.warnings[0]
