"""What the environment says. The one place that reads it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import Field, InstanceOf

from foundry_ray.config.loading import store_config
from foundry_ray.config.section import Section
from foundry_ray.config.store import StoreConfig, StoreField
from foundry_ray.errors import ConfigError, OutOfRange
from foundry_ray.secrecy import Secret, Variables


class Settings(Section):
    """What the environment says."""

    home: Path = Field(Path(".foundry"), description="FOUNDRY_HOME: local state, daemons, fetched data sets.")
    store: StoreField = Field(StoreConfig(), description="FOUNDRY_STORE: the store of commands that name none, a URI or a .yaml file.")
    ray_address: str | None = Field(None, description="RAY_ADDRESS inside a Ray job.")
    is_inside_job: bool = Field(False, description="Whether this process was started by `foundry submit`.")
    token_path: Path | None = Field(None, description="FOUNDRY_TOKEN_PATH: the file with the token of a remote cluster.")
    store_retry_s: float = Field(
        90.0, ge=0, le=86_400, description="FOUNDRY_STORE_RETRY_S: seconds for which an operation on a silent store is repeated."
    )
    user: str = Field("unknown", description="FOUNDRY_USER, else USER or LOGNAME: who changes the registry, for its histories.")
    host: str = Field("unknown", description="The name of this machine.")
    mlflow_tracking_uri: InstanceOf[Secret] | None = Field(
        None, repr=False, exclude=True, description="MLFLOW_TRACKING_URI: where metrics of trainings go, too. It may hold a password."
    )

    @property
    def who(self) -> str:
        """The user on this machine: user@host."""
        return f"{self.user}@{self.host}"

    def __getstate__(self) -> dict[Any, Any]:
        """Drivers alone track, so a password in the tracking URI stays here when settings travel to workers."""
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "mlflow_tracking_uri": None}}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SigningKeys:
    """What the environment says of signatures. Texts that are secret: no repr shows them, and no pickle takes them to another process.

    `signing` signs and checks, `verifying` only checks; `signing_source` is the variable or the file that the first one came from.
    """

    signing: str | None = None
    signing_source: str = ""
    verifying: str | None = None

    @property
    def is_checking(self) -> bool:
        """Whether models must be signed to be used here."""
        return self.signing is not None or self.verifying is not None

    def __repr__(self) -> str:
        return f"SigningKeys(signing={'set' if self.signing else 'absent'}, verifying={'set' if self.verifying else 'absent'})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys do not leave their process; every process reads its own environment")


def settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the environment. `home` is absolute."""
    env = Variables(os.environ if environ is None else environ)
    token = env.get("FOUNDRY_TOKEN_PATH")
    return Settings(
        home=Path(env.get("FOUNDRY_HOME", ".foundry")).absolute(),
        store=store_config(env.get("FOUNDRY_STORE", "embedded")),
        ray_address=env.get("RAY_ADDRESS"),
        is_inside_job="FOUNDRY_JOB" in env,
        token_path=Path(token) if token else None,
        store_retry_s=_seconds(env, "FOUNDRY_STORE_RETRY_S", 90.0),
        user=_user(env),
        host=socket.gethostname(),
        mlflow_tracking_uri=_secret(env.get("MLFLOW_TRACKING_URI") or None),
    )


def signing_keys(environ: Mapping[str, str] | None = None) -> SigningKeys:
    """The keys of FOUNDRY_SIGNING_KEY or FOUNDRY_SIGNING_KEY_FILE, and of FOUNDRY_VERIFY_KEY. One that is set and empty is a wrong key.

    Raises:
        ConfigError: Both forms of the signing key are given, or its file is missing or can be read by others.
    """
    env = Variables(os.environ if environ is None else environ)
    signing, path = _secret(env.get("FOUNDRY_SIGNING_KEY")), env.get("FOUNDRY_SIGNING_KEY_FILE")
    if signing is not None and path is not None:
        message = "FOUNDRY_SIGNING_KEY and FOUNDRY_SIGNING_KEY_FILE are both set, wanted one of them."
        raise ConfigError(message, hint="`unset FOUNDRY_SIGNING_KEY` uses the file.")
    return SigningKeys(
        signing=_read_key(Path(path)) if path is not None else signing,
        signing_source=path or "FOUNDRY_SIGNING_KEY",
        verifying=_secret(env.get("FOUNDRY_VERIFY_KEY")),
    )


def _secret(text: str | None) -> Secret | None:
    return None if text is None else Secret(text)


def _read_key(path: Path) -> Secret:
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            message = f"the key file {path} has mode {mode:o}, wanted 600: others can read it."
            raise ConfigError(message, hint=f"`chmod 600 {path}`, and make a new key if somebody else uses this machine.")
        return Secret(path.read_text(encoding="ascii").strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"the key file {path} cannot be read: {reason}.", hint="`foundry models keygen -o FILE` makes one.") from None


def _user(env: Mapping[str, str]) -> str:
    name = env.get("FOUNDRY_USER") or env.get("USER") or env.get("LOGNAME") or "unknown"
    return "".join(letter for letter in name if letter.isprintable())[:100] or "unknown"


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise OutOfRange(f"{name} is {text!r}, wanted seconds from 0 to 86400.", hint=f"`unset {name}` uses {default:g}.", key=name, value=text)
    return value
