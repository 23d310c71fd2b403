"""What a job takes along, and what it must not."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from foundry_ray.config import load_config
from foundry_ray.errors import ConfigError
from foundry_ray.runtime.package import Package, pack

_TEXT = "name: tiny\ndata: {source: digits}\n"


def _pack(path: Path, *overrides: str, store: str | None = None) -> Package:
    return pack(path, load_config(path, overrides), store=store, overrides=overrides, scale="smoke")


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(_TEXT)
    return path


def test_a_package_holds_the_pipeline_and_the_options(pipeline: Path) -> None:
    package = _pack(pipeline, "seed=7", store="s3://bucket/prefix")
    assert package.arguments == ("pipeline.yaml", "--set", "seed=7", "--scale", "smoke", "--store", "s3://bucket/prefix")
    with zipfile.ZipFile(io.BytesIO(package.content)) as archive:
        assert {name: archive.read(name).decode() for name in archive.namelist()} == {"pipeline.yaml": _TEXT}


def test_equal_packages_have_equal_names(pipeline: Path) -> None:
    first = _pack(pipeline)
    assert _pack(pipeline).uri == first.uri
    pipeline.write_text(_TEXT + "seed: 1\n")
    assert _pack(pipeline).uri != first.uri


def test_a_space_of_the_users_travels_and_is_found_there(pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "own.yaml").write_text("params: {}\n")
    package = _pack(pipeline, "search.space=spaces/own.yaml")
    assert "search.space=./own.yaml" in package.arguments
    with zipfile.ZipFile(io.BytesIO(package.content)) as archive:
        assert set(archive.namelist()) == {"pipeline.yaml", "own.yaml"}


def test_a_folder_of_images_is_named_absolutely_and_reported(pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "sets" / "pets").mkdir(parents=True)
    package = _pack(pipeline, "data.source=sets/pets")
    assert f"data.source={tmp_path}/sets/pets" in package.arguments
    assert package.local_paths == ("sets/pets",)
    assert _pack(pipeline, f"data.source={tmp_path}/sets/pets").local_paths == ()


@pytest.mark.parametrize(
    ("store", "what"),
    [
        ("s3://KEY:SECRET@bucket/prefix", "a URI with a user in it"),
        ("s3://bucket/AKIAIOSFODNN7EXAMPLE", "an AWS access key"),
        ("s3://b?secret=x", "a secret"),
    ],
)
def test_credentials_are_refused_without_being_repeated(store: str, what: str, pipeline: Path) -> None:
    with pytest.raises(ConfigError, match=f"the command line holds {what}") as caught:
        _pack(pipeline, store=store)
    assert store not in str(caught.value)


def test_credentials_in_the_file_are_refused_and_comments_are_not(pipeline: Path) -> None:
    pipeline.write_text(_TEXT + "# the password: ask Anna\n")
    assert _pack(pipeline).arguments[0] == "pipeline.yaml"
    pipeline.write_text(_TEXT + "store: s3://me:hunter2@bucket/x\n")
    with pytest.raises(ConfigError, match=r"pipeline\.yaml holds a URI with a user in it"):
        _pack(pipeline)


@pytest.mark.parametrize(
    ("comment", "what"),
    [
        ("was s3://me:hunter2@bucket/x", "a URI with a user in it"),
        ("key AKIAIOSFODNN7EXAMPLE", "an AWS access key"),
        ("export AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI", "an AWS secret"),
    ],
)
def test_a_comment_travels_so_credentials_in_it_are_refused(pipeline: Path, comment: str, what: str) -> None:
    pipeline.write_text(f"{_TEXT}# {comment}\n")
    with pytest.raises(ConfigError, match=rf"pipeline\.yaml holds {what}"):
        _pack(pipeline)
