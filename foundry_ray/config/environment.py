"""What the environment says. The one place that reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from foundry_ray.config.loading import store_config
from foundry_ray.config.section import Section
from foundry_ray.config.store import StoreConfig, StoreField
from foundry_ray.errors import OutOfRange


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


def settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the environment. `home` is absolute."""
    env = os.environ if environ is None else environ
    token = env.get("FOUNDRY_TOKEN_PATH")
    return Settings(
        home=Path(env.get("FOUNDRY_HOME", ".foundry")).absolute(),
        store=store_config(env.get("FOUNDRY_STORE", "embedded")),
        ray_address=env.get("RAY_ADDRESS"),
        is_inside_job="FOUNDRY_JOB" in env,
        token_path=Path(token) if token else None,
        store_retry_s=_seconds(env, "FOUNDRY_STORE_RETRY_S", 90.0),
    )


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise OutOfRange(f"{name} is {text!r}, wanted seconds from 0 to 86400.", hint=f"`unset {name}` uses {default:g}.", key=name, value=text)
    return value
