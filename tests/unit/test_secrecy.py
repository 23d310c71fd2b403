"""Secrets that are used like any text, and shown by nothing that prints reprs."""

from __future__ import annotations

import hmac
import json
import pickle

from rich.pretty import pretty_repr

from foundry_ray.secrecy import Secret, SecretBytes, Variables

KEY = "0123456789abcdef" * 8


def test_a_secret_is_a_text_like_any_other() -> None:
    secret = Secret(KEY)
    assert (secret == KEY, hash(secret) == hash(KEY), f"{secret}", json.dumps(secret)) == (True, True, KEY, f'"{KEY}"')
    assert hmac.new(secret.encode(), b"", "sha256").digest() == hmac.new(KEY.encode(), b"", "sha256").digest()
    assert pickle.loads(pickle.dumps(secret)) == KEY


def test_neither_a_secret_nor_its_parts_are_shown() -> None:
    secret = Secret(f" hmac:{KEY} ")
    parts = [secret, secret[1:], secret.strip(), *secret.partition(":")]
    assert repr(parts) == repr([*["<secret>"] * 6]).replace("'", "")
    assert "0123" not in pretty_repr({"key": secret}, max_string=8)


def test_bytes_and_variables_are_not_shown() -> None:
    variables = Variables({"AWS_SECRET_ACCESS_KEY": KEY})
    assert repr([SecretBytes(KEY.encode()), SecretBytes.fromhex("00ff"), variables]) == "[<secret>, <secret>, <1 variables>]"
    assert variables["AWS_SECRET_ACCESS_KEY"] == KEY
    assert "0123" not in pretty_repr(SecretBytes(KEY.encode()), max_string=8)
