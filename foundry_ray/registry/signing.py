"""Keys that sign, and keys that check: HMAC-SHA256 from the standard library, Ed25519 (RFC 8032) from the library `cryptography`.

A key is written `hmac:<hex of 32 or more bytes>` or `ed25519:<hex of 32 bytes>`; of Ed25519 there is a private key to sign with and a public one
that only checks. Nothing here shows a key: not in repr, not in an error, not in a pickle.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, Protocol

from foundry_ray.config import SigningKeys
from foundry_ray.errors import ConfigError
from foundry_ray.secrecy import SecretBytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KeyKind = Literal["ed25519", "hmac"]
_KEY_BYTES = 32
_ID_LETTERS = 16
_FORM = "write `hmac:<hex of 32 or more bytes>` or `ed25519:<hex of 32 bytes>`; `foundry models keygen -o FILE` makes one."


class Verifier(Protocol):
    """A key that checks. `key_id` identifies it, and tells nothing of a secret."""

    kind: KeyKind
    key_id: str

    def is_valid(self, message: bytes, signature: str) -> bool:
        """Whether this key's owner signed these bytes. `signature` is hex, and may be anything."""


class Signer(Verifier, Protocol):
    """A key that signs, and checks what it signed."""

    def sign(self, message: bytes) -> str:
        """The signature, in hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """The keys of this process. Signatures of any of the `verifiers` count."""

    signer: Signer | None = None
    verifiers: tuple[Verifier, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A new key as texts; `public` is None for HMAC, where who can check can also sign."""

    private: str = field(repr=False)
    public: str | None


def open_keyring(keys: SigningKeys) -> Keyring:
    """The keys that the environment names. Raises ConfigError for a text that is no key, or where `cryptography` is missing."""
    signer = _signer(keys.signing, keys.signing_source) if keys.signing is not None else None
    verifiers: list[Verifier] = [signer] if signer is not None else []
    if keys.verifying is not None:
        verifiers.append(_verifier(keys.verifying, "FOUNDRY_VERIFY_KEY"))
    return Keyring(signer=signer, verifiers=tuple(verifiers))


def make_key(kind: KeyKind) -> KeyPair:
    """A new key from the system's random source. Raises ConfigError for Ed25519 where `cryptography` is missing."""
    private = secrets.token_bytes(_KEY_BYTES)
    public = f"ed25519:{_public_bytes(_private_key(private)).hex()}" if kind == "ed25519" else None
    return KeyPair(private=f"{kind}:{private.hex()}", public=public)


def write_key(path: Path, kind: KeyKind) -> Path | None:
    """Write a new private key as `path`, readable by its owner alone, and its public key beside it as `<path>.pub`, which is returned.

    Raises:
        ConfigError: A file is there already: a key is never overwritten; or it cannot be written; or `cryptography` is missing.
    """
    pair = make_key(kind)
    public = path.with_name(f"{path.name}.pub") if pair.public is not None else None
    try:
        _write_new(path, pair.private, 0o600)
        if public is not None and pair.public is not None:
            try:
                _write_new(public, pair.public, 0o644)
            except OSError:
                path.unlink()  # a private key whose public half stands nowhere, or a public one of another key beside it, misleads
                raise
    except FileExistsError as error:
        raise ConfigError(f"{error.filename} exists already, and a key is not overwritten.", hint="name another file.") from None
    except OSError as error:
        raise ConfigError(f"the key cannot be written: {error.strerror}: {error.filename}.", hint="name a file in a folder that exists.") from None
    return public


def _write_new(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(text + "\n")


class _Secret:
    """What has a key: it is not shown, and does not leave the process."""

    kind: KeyKind
    key_id: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}(key_id={self.key_id!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key does not leave its process; every process reads its own environment")


class _Hmac(_Secret):
    def __init__(self, key: bytes) -> None:
        self.kind: KeyKind = "hmac"
        self._key = key
        self.key_id = hmac.new(key, b"foundry-ray key id", hashlib.sha256).hexdigest()[:_ID_LETTERS]

    def sign(self, message: bytes) -> str:
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()

    def is_valid(self, message: bytes, signature: str) -> bool:
        return hmac.compare_digest(self.sign(message).encode(), signature.encode(errors="replace"))


class _Ed25519Public(_Secret):
    def __init__(self, public: Ed25519PublicKey) -> None:
        self.kind: KeyKind = "ed25519"
        self._public = public
        self.key_id = hashlib.sha256(_public_bytes(public)).hexdigest()[:_ID_LETTERS]

    def is_valid(self, message: bytes, signature: str) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            self._public.verify(bytes.fromhex(signature), message)
        except (InvalidSignature, ValueError):
            return False
        return True


class _Ed25519(_Ed25519Public):
    def __init__(self, private: Ed25519PrivateKey) -> None:
        super().__init__(private.public_key())
        self._private = private

    def sign(self, message: bytes) -> str:
        return self._private.sign(message).hex()


def _signer(text: str, source: str) -> Signer:
    kind, key = _parse(text, source)
    return _Hmac(key) if kind == "hmac" else _Ed25519(_private_key(key))


def _verifier(text: str, source: str) -> Verifier:
    kind, key = _parse(text, source)
    if kind == "hmac":
        return _Hmac(key)
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return _Ed25519Public(Ed25519PublicKey.from_public_bytes(key))


def _parse(text: str, source: str) -> tuple[KeyKind, bytes]:
    """Kind and bytes of a key. The errors say what is wrong with it and never what it is."""
    kind, _, digits = text.strip().partition(":")
    try:
        key = SecretBytes.fromhex(digits)
    except ValueError:
        raise ConfigError(f"{source} is no key: what follows the colon is not hexadecimal.", hint=_FORM) from None
    if kind == "hmac" and len(key) >= _KEY_BYTES:
        return "hmac", key
    if kind == "ed25519" and len(key) == _KEY_BYTES:
        return "ed25519", key
    if kind not in ("hmac", "ed25519"):
        raise ConfigError(f"{source} is no key: it begins with neither `hmac:` nor `ed25519:`.", hint=_FORM)
    wanted = f"{_KEY_BYTES} or more" if kind == "hmac" else str(_KEY_BYTES)
    raise ConfigError(f"{source} is no key: {kind} has {len(key)} bytes, wanted {wanted}.", hint=_FORM)


def _private_key(key: bytes) -> Ed25519PrivateKey:
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(key)


def _public_bytes(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return (key.public_key() if isinstance(key, Ed25519PrivateKey) else key).public_bytes_raw()


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        message = "an ed25519 key needs the library cryptography, which is not installed."
        raise ConfigError(message, hint="`pip install 'foundry-ray[signing]'`, or use an hmac key.") from error
