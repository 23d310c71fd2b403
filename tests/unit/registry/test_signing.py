"""Keys: where they come from, what is wrong with them, and that nothing shows them."""

from __future__ import annotations

import builtins
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from foundry_ray.config import SigningKeys, signing_keys
from foundry_ray.config import settings as read_settings
from foundry_ray.errors import ConfigError
from foundry_ray.registry.signing import make_key, open_keyring, write_key

HMAC = f"hmac:{'a1' * 32}"


@pytest.mark.parametrize("kind", ["hmac", "ed25519"])
def test_what_a_key_signs_it_accepts_and_nothing_else(kind: str) -> None:
    pair, other = make_key(kind), make_key(kind)  # type: ignore[arg-type]
    signer = open_keyring(SigningKeys(signing=pair.private)).signer
    [verifier] = open_keyring(SigningKeys(verifying=pair.public or pair.private)).verifiers
    [stranger] = open_keyring(SigningKeys(verifying=other.public or other.private)).verifiers
    assert signer is not None
    signature = signer.sign(b"model")
    assert verifier.is_valid(b"model", signature)
    assert verifier.key_id == signer.key_id != stranger.key_id
    assert not verifier.is_valid(b"other", signature)
    assert not stranger.is_valid(b"model", signature)
    assert not any(verifier.is_valid(b"model", wrong) for wrong in ("", "zz", signature[:-2], "\ud800", "é" * 64))


def test_a_public_key_does_not_sign() -> None:
    assert open_keyring(SigningKeys(verifying=make_key("ed25519").public)).signer is None


def test_rfc_8032_test_1_gives_its_signature() -> None:
    private = "ed25519:9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    signer = open_keyring(SigningKeys(signing=private)).signer
    assert signer is not None
    assert signer.sign(b"").startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with neither `hmac:` nor `ed25519:`"),
        ("deadbeef", "begins with neither"),
        (f"rsa:{'a1' * 32}", "begins with neither"),
        ("hmac:xyzzy", "what follows the colon is not hexadecimal"),
        (f"hmac:{'a1' * 31}", "hmac has 31 bytes, wanted 32 or more"),
        (f"ed25519:{'a1' * 33}", "ed25519 has 33 bytes, wanted 32"),
    ],
)
def test_a_text_that_is_no_key_is_refused_and_not_repeated(text: str, message: str) -> None:
    for keys, source in ((SigningKeys(signing=text, signing_source="FOUNDRY_SIGNING_KEY"), "SIGNING"), (SigningKeys(verifying=text), "VERIFY")):
        with pytest.raises(ConfigError, match=f"FOUNDRY_{source}_KEY is no key: .*{message}") as caught:
            open_keyring(keys)
        digits = text.rpartition(":")[2]
        assert not digits or digits not in str(caught.value)


def test_no_key_is_shown_or_pickled() -> None:
    keys = SigningKeys(signing=HMAC, verifying=HMAC)
    shown = [repr(thing) for thing in (keys, open_keyring(keys), open_keyring(keys).signer, make_key("hmac"), SigningKeys())]
    assert not any("a1a1" in text for text in shown)
    assert shown[0] == "SigningKeys(signing=set, verifying=set)"
    for secret in (keys, open_keyring(keys).signer):
        with pytest.raises(TypeError, match="not leave"):
            pickle.dumps(secret)


def test_the_environment_names_keys(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_key(path, "hmac")
    assert signing_keys({}).is_checking is False
    assert signing_keys({"FOUNDRY_SIGNING_KEY": HMAC}).signing == HMAC
    assert signing_keys({"FOUNDRY_VERIFY_KEY": HMAC}).is_checking
    assert signing_keys({"FOUNDRY_SIGNING_KEY_FILE": str(path)}).signing == path.read_text().strip()
    with pytest.raises(ConfigError, match="FOUNDRY_SIGNING_KEY and FOUNDRY_SIGNING_KEY_FILE are both set"):
        signing_keys({"FOUNDRY_SIGNING_KEY": HMAC, "FOUNDRY_SIGNING_KEY_FILE": str(path)})


def test_a_variable_that_is_set_and_empty_does_not_switch_the_check_off() -> None:
    keys = signing_keys({"FOUNDRY_VERIFY_KEY": ""})
    assert keys.is_checking
    with pytest.raises(ConfigError, match="FOUNDRY_VERIFY_KEY is no key"):
        open_keyring(keys)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.chmod(0o640), "has mode 640, wanted 600: others can read it"),
        (lambda path: path.unlink(), "cannot be read: No such file or directory"),
        (lambda path: path.write_bytes(b"\xff"), "cannot be read: it is no text"),
    ],
)
def test_a_key_file_that_is_open_or_unreadable_is_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "key"
    write_key(path, "hmac")
    spoil(path)
    with pytest.raises(ConfigError, match=message):
        signing_keys({"FOUNDRY_SIGNING_KEY_FILE": str(path)})


def test_a_written_key_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    public = write_key(path, "ed25519")
    assert public == tmp_path / "key.pub"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert public.read_text().startswith("ed25519:")
    before = path.read_text()
    with pytest.raises(ConfigError, match="exists already, and a key is not overwritten"):
        write_key(path, "hmac")
    assert path.read_text() == before
    with pytest.raises(ConfigError, match="the key cannot be written: No such file or directory"):
        write_key(tmp_path / "none" / "key", "hmac")
    assert write_key(tmp_path / "shared", "hmac") is None


@pytest.mark.parametrize("taken", ["key", "key.pub"])
def test_a_key_is_written_with_its_public_half_or_not_at_all(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("another")
    with pytest.raises(ConfigError, match=f"{taken} exists already"):
        write_key(tmp_path / "key", "ed25519")
    assert [path.name for path in tmp_path.iterdir()] == [taken]


def test_ed25519_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: object, **options: object) -> object:
        if name == "cryptography":
            raise ImportError(name)
        return real(name, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match="needs the library cryptography") as caught:
        make_key("ed25519")
    assert "pip install 'foundry-ray[signing]'" in caught.value.hint
    assert open_keyring(SigningKeys(signing=HMAC)).signer is not None


@pytest.mark.parametrize(
    ("env", "user"),
    [
        ({"FOUNDRY_USER": "ann", "USER": "root"}, "ann"),
        ({"USER": "bob", "LOGNAME": "eve"}, "bob"),
        ({"LOGNAME": "eve"}, "eve"),
        ({}, "unknown"),
        ({"USER": "a\nb"}, "ab"),
    ],
)
def test_who_changes_the_registry_comes_from_the_environment(env: dict[str, str], user: str) -> None:
    found = read_settings(env)
    assert found.user == user
    assert found.who == f"{user}@{found.host}"
    assert found.host not in ("", "unknown")
