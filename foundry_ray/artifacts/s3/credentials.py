"""From the `store:` section to an endpoint: who asks, with which credentials, trusting whom.

Everything is read where the store is used, so that a pickled store carries no secret. Errors name the key of the section and never what
stands in a file of credentials.
"""

from __future__ import annotations

import configparser
import ssl
from pathlib import Path

from foundry_ray.artifacts.s3.client import Endpoint
from foundry_ray.config import StoreConfig
from foundry_ray.errors import ConfigError
from foundry_ray.secrecy import Secret

_UNSIGNED = {"auto": None, "payload": False, "headers": True}


def endpoint_of(config: StoreConfig) -> Endpoint:
    """The endpoint that a section describes, with the credentials of its file if it names one.

    Raises:
        ConfigError: `ca_bundle` or `credentials_file` is missing, unreadable, or not what it should be.
    """
    access_key, secret_key, session_token = _credentials(config)
    return Endpoint(
        url=config.endpoint,
        access_key=access_key,
        secret_key=secret_key,
        session_token=session_token,
        profile=None if config.credentials_file else config.profile,
        region=config.region,
        addressing=config.addressing,
        is_unsigned=_UNSIGNED[config.signing],
        has_checksums=config.checksums != "when_required",
        verify_tls=config.verify_tls,
        ca_bundle=_ca_bundle(config),
        proxy=config.proxy,
    )


def _ca_bundle(config: StoreConfig) -> str | None:
    if config.ca_bundle is None:
        return None
    path = config.ca_bundle.expanduser()
    try:
        ssl.create_default_context(cafile=str(path))
    except OSError as error:  # ssl.SSLError is one
        reason = "holds no certificate" if isinstance(error, ssl.SSLError) else f"cannot be read ({error.strerror})"
        raise ConfigError(f"store.ca_bundle is {path}, which {reason}.", hint="name a PEM file with the authorities to trust.") from error
    return str(path)


def _credentials(config: StoreConfig) -> tuple[Secret | None, Secret | None, Secret | None]:
    if config.credentials_file is None:
        return None, None, None
    path = config.credentials_file.expanduser()
    profile = config.profile or "default"
    sections = _read_private(path)
    if profile not in sections:
        raise ConfigError(f"store.credentials_file is {path}, which has no profile [{profile}].", hint="set `store.profile` to one that it has.")
    values = (sections[profile].get(name) for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"))
    found = [None if value is None else Secret(value) for value in values]
    if not (found[0] and found[1]):
        message = f"store.credentials_file is {path}, whose profile [{profile}] lacks aws_access_key_id or aws_secret_access_key."
        raise ConfigError(message, hint="give it both.")
    return found[0], found[1], found[2]


def _read_private(path: Path) -> configparser.RawConfigParser:
    sections = configparser.RawConfigParser()  # "%" in a secret is no interpolation
    try:
        with path.open() as stream:
            mode = path.stat().st_mode & 0o777
            if mode & 0o077:
                message = f"store.credentials_file is {path}, which others can read (mode {mode:03o}), wanted mode 600."
                raise ConfigError(message, hint=f"`chmod 600 {path}`.")
            sections.read_file(stream)
    except OSError as error:
        hint = "put it on every machine that opens the store, with mode 600."
        raise ConfigError(f"store.credentials_file is {path}, which cannot be read ({error.strerror}).", hint=hint) from error
    except (configparser.Error, UnicodeDecodeError):  # they quote the file
        raise ConfigError(f"store.credentials_file is {path}, which is no INI file.", hint="write it like ~/.aws/credentials.") from None
    return sections
