"""The environment of the processes that foundry starts, and the only writer of `os.environ`.

Decides: every switch of Ray, DeepSpeed and the AWS libraries that is set by environment variable. All of them are read at process
start, so they must be there before `ray.init` in the driver, and before `ray start` for the workers of a head.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from foundry_ray.config import Settings
from foundry_ray.secrecy import Variables

_RAY_TRAIN = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # also the delay until a reported checkpoint counts; Ray's default is 2 s
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # its ERROR line alarms where there is nothing to watch
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints every line twice
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
}
_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
}
# S3-compatible servers refuse the trailing checksums that the AWS libraries add since 2025 (apache/arrow#45305, boto/boto3#4398).
_AWS = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
_MLFLOW = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is the result's, and the URL may hold a password
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # its seven retries take four minutes, until which nobody is told that the server is dead
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes Ray take 127.0.0.1 as the node's address, in a head and in the drivers that join it; the default on macOS and Windows."""
NO_DRAIN = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
"""For a head that is the whole cluster: it has nobody to hand its work over to, and Ray would wait 30 s for that before it stops."""

_AUTH_KEYS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def portable_env() -> dict[str, str]:
    """What workers need on any machine, as variables: nothing here was found out on this one. Holds no secret and no path."""
    return {**_RAY_TRAIN, **_RAY, **_AWS, "PYTHONWARNINGS": "ignore"}


def worker_env() -> dict[str, str]:
    """What workers and drivers on this machine need: the portable part, and what its hardware asks for."""
    return {**portable_env(), **_accelerator(), **_no_metadata()}


def child_env(settings: Settings, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The full environment of a daemon: this process's own, the workers' switches, FOUNDRY_HOME, and this Python first in PATH.

    Jobs and workers of a head start `python` from the PATH that the head was started with.
    """
    inherited = Variables({name: value for name, value in os.environ.items() if name not in _AUTH_KEYS and name != "RAY_ADDRESS"})
    if "FOUNDRY_SIGNING_KEY_FILE" in inherited:  # the daemon works in another folder
        inherited["FOUNDRY_SIGNING_KEY_FILE"] = str(Path(inherited["FOUNDRY_SIGNING_KEY_FILE"]).absolute())
    path = os.pathsep.join((str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)))
    return Variables({**inherited, **worker_env(), "PATH": path, "FOUNDRY_HOME": str(settings.home), **(extra or {})})


def auth_env(token_path: Path | None) -> dict[str, str]:
    """The variables that make Ray use this token file, and never one under the user's home folder."""
    return {} if token_path is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path)}


def apply_to_driver(*, token_path: Path | None = None, is_loopback: bool | None = None) -> None:
    """Set this process's environment, before `ray.init`.

    Args:
        token_path: File with the cluster's token; None leaves Ray's own rules in force.
        is_loopback: Whether the cluster is a head of foundry's own on 127.0.0.1; None leaves it as it is (inside a job).
    """
    os.environ.update(worker_env())
    if token_path is not None:
        os.environ.pop("RAY_AUTH_TOKEN", None)  # it would win over the path
        os.environ.update(auth_env(token_path))
    if is_loopback is not None:
        for name in LOOPBACK:
            os.environ.pop(name, None)
        os.environ.update(LOOPBACK if is_loopback else {})
    if "ray._private.ray_constants" in sys.modules and (token_path is not None or is_loopback is not None):
        _refresh_ray(is_loopback)


def apply_for_mlflow() -> None:
    """Set this process's environment before MLflow is imported. What the user has set stays."""
    for name, value in _MLFLOW.items():
        os.environ.setdefault(name, value)


def apply_for_cublas() -> None:
    """Give cuBLAS a workspace of fixed size, without which it is not deterministic. It looks once, before its first product."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def apply_for_deepspeed(device: str) -> None:
    """Tell DeepSpeed which GPU is this process's. It takes LOCAL_RANK for its number, which counts the workers of a node: several may share one."""
    kind, _, index = device.partition(":")
    if kind == "cuda":
        os.environ["LOCAL_RANK"] = index or "0"


def remembered() -> Variables:
    """This process's environment as it is now."""
    return Variables(os.environ)


def restore_env(variables: Mapping[str, str]) -> None:
    """Make this process's environment what it was: what user code set is gone, what it removed is back."""
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in variables.items() if os.environ.get(name) != value})


def _refresh_ray(is_loopback: bool | None) -> None:
    """Ray reads these when it is imported, and offers no way to read them again. Where it is loaded already, tell it."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # its stub names neither

    if is_loopback is not None and sys.platform == "linux":
        ray_constants.ENABLE_RAY_CLUSTER = not is_loopback
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _accelerator() -> dict[str, str]:
    """DeepSpeed guesses wrong, with a warning, where there is no GPU; where there is one it is left to find it."""
    return {} if Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists() else {"DS_ACCELERATOR": "cpu"}


def _no_metadata() -> dict[str, str]:
    """Outside EC2 nobody answers for instance credentials, and the AWS libraries wait seconds to find that out."""
    vendor = Path("/sys/devices/virtual/dmi/id/sys_vendor")
    try:
        is_ec2 = "amazon" in vendor.read_text(encoding="utf-8").lower()
    except OSError:
        is_ec2 = False
    return {} if is_ec2 else {"AWS_EC2_METADATA_DISABLED": "true"}
