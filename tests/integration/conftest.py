"""Servers that several test files share: an S3 account at a moto server, and an embedded server."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from foundry_ray.artifacts import embedded, s3
from foundry_ray.config import Settings
from foundry_ray.testing.accounts import Account
from foundry_ray.testing.served import Served, served


@pytest.fixture(scope="module")
def home() -> Iterator[Settings]:
    """A FOUNDRY_HOME with a running embedded store."""
    with tempfile.TemporaryDirectory(prefix="fs", dir="/tmp") as folder:
        settings = Settings(home=Path(folder), store_retry_s=20.0)
        yield settings
        embedded.stop(settings)


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed").ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate for localhost that signs itself."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    asked = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-x509", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(["openssl", "req", *asked, *names, "-keyout", str(path), "-out", f"{path}.cert"], check=True, capture_output=True, timeout=60)
    path.write_text(path.read_text() + Path(f"{path}.cert").read_text())
    return path


@pytest.fixture
def account(moto_port: int, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """An account with an empty bucket `account`, on a machine without AWS settings."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    credentials = tmp_path / "credentials"
    credentials.touch(mode=0o600)
    credentials.write_text("[default]\naws_access_key_id = someone\naws_secret_access_key = hidden-secret\n")
    # Every moto server of a process has the same buckets: other tests use another one.
    bucket = boto3.resource("s3", endpoint_url=f"http://127.0.0.1:{moto_port}", aws_access_key_id="a", aws_secret_access_key="b").Bucket("account")
    bucket.create()
    yield Account(moto_port, credentials, certificate, Settings(home=tmp_path / "home", store_retry_s=1.0))
    bucket.object_versions.delete()
    bucket.delete()
    s3.client._clients.clear()


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    """An embedded server that nobody kills; its users keep to folders of their own."""
    with served() as running:
        yield running
