"""How the section of a store becomes an endpoint and a client, and what is said where it cannot."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest

from foundry_ray.artifacts.s3.client import Endpoint, client_of
from foundry_ray.artifacts.s3.credentials import endpoint_of
from foundry_ray.artifacts.s3.store import S3Store
from foundry_ray.config import StoreConfig, store_config
from foundry_ray.errors import ConfigError, OutOfRange

_SECRET = "top%secret"


def _config(**options: object) -> StoreConfig:
    return StoreConfig.model_validate({"uri": "s3://bucket", **options})


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    path.touch(mode=0o600)
    path.write_text(
        f"[default]\naws_access_key_id = first\naws_secret_access_key = {_SECRET}\n"
        f"[other]\naws_access_key_id = second\naws_secret_access_key = {_SECRET}2\naws_session_token = y\n[half]\naws_access_key_id = third\n"
    )
    return path


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without AWS settings."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))


WRONG = {
    "uri: s3://b\nendpoint: ftp://host": r"endpoint: got 'ftp://host', wanted a URL like https://host:port",
    "uri: s3://b\nproxy: host:3128": r"proxy: got 'host:3128', wanted a URL",
    "uri: s3://b\nproxy: 'http://me:hidden@host'": r"proxy: the URL holds credentials",
    "uri: s3://b\ntags: {'a?': b}": r"tags: got the tag 'a\?': 'b', wanted a name of 1 to 128",
    "uri: s3://b\ntags: {'aws:a': b}": r"tags: got the tag 'aws:a': 'b', wanted .* not beginning with aws:",
    "uri: s3://b\nkms_key_id: k": r"`kms_key_id` needs `encryption: aws:kms`, got none",
    "uri: s3://b\nverify_tls: false\nca_bundle: x.pem": r"`ca_bundle` says whom to trust and `verify_tls: false` to trust everybody",
    "uri: file:///x\nregion: eu-west-1": r"`region` is for `s3://` stores, got `uri: file:///x`",
    "tags: {a: b}": r"`tags` is for `s3://` stores, got `uri: embedded`",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_section_that_cannot_work_is_refused_when_it_is_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "store.yaml"
    path.write_text("store:\n  " + text.replace("\n", "\n  "))
    with pytest.raises(OutOfRange, match=WRONG[text]) as caught:
        store_config(str(path))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(("profile", "found"), [(None, ("first", _SECRET, None)), ("other", ("second", f"{_SECRET}2", "y"))])
def test_credentials_come_from_the_profile_of_the_file(credentials: Path, profile: str | None, found: tuple[str, str, str | None]) -> None:
    endpoint = endpoint_of(_config(credentials_file=credentials, profile=profile))
    assert (endpoint.access_key, endpoint.secret_key, endpoint.session_token, endpoint.profile) == (*found, None)
    assert found[1] not in repr(endpoint)


@pytest.mark.parametrize(
    ("mode", "text", "profile", "said"),
    [
        (0o640, None, None, r"which others can read \(mode 640\), wanted mode 600\. Hint: `chmod 600"),
        (0o600, None, "none", r"which has no profile \[none\]\. Hint: set `store\.profile`"),
        (0o600, None, "half", r"profile \[half\] lacks aws_access_key_id or aws_secret_access_key"),
        (0o600, f"aws_secret_access_key {_SECRET}", None, r"which is no INI file"),
    ],
)
def test_a_file_of_credentials_that_cannot_be_used_is_named_and_not_quoted(
    credentials: Path, mode: int, text: str | None, profile: str | None, said: str
) -> None:
    credentials.write_text(text or credentials.read_text())
    credentials.chmod(mode)
    with pytest.raises(ConfigError, match=rf"store\.credentials_file is .*credentials, .*{said}") as caught:
        endpoint_of(_config(credentials_file=credentials, profile=profile))
    assert _SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_bundle_of_authorities_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"store\.ca_bundle is .*none\.pem, which cannot be read \(No such file"):
        endpoint_of(_config(ca_bundle=tmp_path / "none.pem"))
    (tmp_path / "a.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"store\.ca_bundle is .*a\.pem, which holds no certificate\. Hint: name a PEM file"):
        endpoint_of(_config(ca_bundle=tmp_path / "a.pem"))


ADDRESSES: Mapping[str, tuple[dict[str, str], str]] = {
    "aws": ({"region": "us-east-1"}, "https://bucket.s3.amazonaws.com/key"),
    "aws, path": ({"region": "eu-west-1", "addressing": "path"}, "https://s3.eu-west-1.amazonaws.com/bucket/key"),
    "own": ({"endpoint": "http://host:9000"}, "http://host:9000/bucket/key"),
    "own, virtual": ({"endpoint": "http://host:9000", "addressing": "virtual"}, "http://bucket.host:9000/key"),
}


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("name", ADDRESSES)
def test_the_bucket_is_addressed_as_the_section_says(name: str, credentials: Path) -> None:
    options, url = ADDRESSES[name]
    client = client_of(endpoint_of(_config(credentials_file=credentials, **options)))
    assert client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "key"}).partition("?")[0] == url


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("options", "is_payload_signed", "checksums"),
    [
        ({"endpoint": "http://127.0.0.1:9"}, False, "when_supported"),
        ({"endpoint": "https://host"}, False, "when_supported"),
        ({"endpoint": "https://host", "verify_tls": False}, True, "when_required"),
        ({"endpoint": "http://host"}, True, "when_required"),
        ({"endpoint": "http://127.0.0.1:9", "proxy": "http://gate:3128"}, True, "when_required"),
        ({"endpoint": "http://host", "signing": "headers"}, False, "when_supported"),
        ({"endpoint": "https://host", "signing": "payload"}, True, "when_required"),
        ({"endpoint": "https://host", "checksums": "when_required"}, False, "when_required"),
    ],
)
def test_bodies_are_signed_where_they_could_be_changed_and_carry_checksums_elsewhere(
    options: dict[str, object], is_payload_signed: bool, checksums: str
) -> None:
    config = client_of(endpoint_of(_config(**options))).meta.config
    assert (config.s3["payload_signing_enabled"], config.request_checksum_calculation) == (is_payload_signed, checksums)


@pytest.mark.usefixtures("bare")
def test_a_profile_that_does_not_exist_is_named() -> None:
    config = _config(profile="nobody")
    store = S3Store(uri=config.uri, bucket="bucket", prefix="", connect=lambda: endpoint_of(config), hint="", config=config)
    with pytest.raises(ConfigError, match=r"nobody.*Hint: check the bucket's name, `store\.profile`"):
        store.get("a")


def test_a_section_with_tags_is_pickled_with_its_store() -> None:
    config = _config(tags={"a": "b"})
    store = S3Store(uri=config.uri, bucket="bucket", prefix="", connect=Endpoint, hint="", config=config)
    assert pickle.loads(pickle.dumps(store)).extra() == {"Tagging": "a=b"}
