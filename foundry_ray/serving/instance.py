"""The Serve instance of a cluster: the one file that talks to Ray Serve about applications.

Decides: how Serve is started (detached, loopback, one proxy on the head) and how its state is read. Leaves to others: what should be
deployed. There is one instance per cluster; it outlives the process that started it.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from foundry_ray.errors import ServingError
from foundry_ray.runtime import ports
from foundry_ray.serving.spec import ReplicaSpec

HOST = "127.0.0.1"
_PORTS_TRIED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """One application as Serve sees it. `spec` is None for an application that is not foundry's."""

    name: str
    status: str
    message: str
    spec: ReplicaSpec | None
    num_running: int


class ServeInstance(Protocol):
    """What a deploy needs from Serve."""

    def port(self) -> int | None:
        """The HTTP port, or None where Serve does not run."""

    def start(self, port: int) -> None:
        """Start Serve with its HTTP port."""

    def apps(self) -> Mapping[str, AppState]:
        """All applications by name."""

    def run(self, spec: ReplicaSpec) -> None:
        """Make Serve want this spec; returns before it is healthy."""

    def delete(self, name: str) -> None:
        """Remove an application and wait for it."""


class RayServe:
    """Serve on the connected Ray cluster."""

    def __init__(self) -> None:
        import ray.serve  # noqa: F401  importing it sets the level that the next line replaces

        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # its INFO lines repeat what deploy reports

    def port(self) -> int | None:
        """See `ServeInstance.port`."""
        client = self._client()
        return None if client is None else int(client.http_config.port)

    def start(self, port: int) -> None:
        """See `ServeInstance.start`."""
        from ray import serve

        serve.start(proxy_location="HeadOnly", http_options={"host": HOST, "port": port}, logging_config={"enable_access_log": False})

    def apps(self) -> Mapping[str, AppState]:
        """See `ServeInstance.apps`."""
        client = self._client()
        return {} if client is None else parse_apps(client.get_serve_details())

    def run(self, spec: ReplicaSpec) -> None:
        """See `ServeInstance.run`."""
        from ray import serve

        from foundry_ray.serving.app import application

        target = serve.RunTarget(application(spec), name=spec.name, route_prefix=f"/{spec.name}")
        serve.run_many([target], wait_for_applications_running=False)

    def delete(self, name: str) -> None:
        """See `ServeInstance.delete`."""
        from ray import serve

        serve.delete(name)

    def _client(self) -> Any:
        # serve.status() tells neither the port nor user_config; this call is what Serve's own REST API answers with.
        from ray.serve.context import _get_global_client

        return _get_global_client(raise_if_no_controller_running=False)


def parse_apps(details: Mapping[str, Any]) -> dict[str, AppState]:
    """Read the JSON of Serve's REST API, `GET /api/serve/applications`."""
    return {name: _parse_app(name, app) for name, app in details["applications"].items()}


def _parse_app(name: str, app: Mapping[str, Any]) -> AppState:
    from foundry_ray.serving.app import DEPLOYMENT

    deployment = app["deployments"].get(DEPLOYMENT, {})
    replicas = deployment.get("replicas", [])
    return AppState(
        name=name,
        status=_text(app["status"]),
        message=deployment.get("message") or app.get("message", ""),
        spec=_parse_spec((deployment.get("deployment_config") or {}).get("user_config")),
        num_running=sum(_text(replica["state"]) == "RUNNING" for replica in replicas),
    )


def _text(value: object) -> str:
    """A status, which the client gives as an enum and REST as a string."""
    return str(getattr(value, "value", value))


def _parse_spec(user_config: object) -> ReplicaSpec | None:
    try:
        return ReplicaSpec.model_validate(user_config)
    except ValidationError:
        return None


def reason_of(message: str) -> str:
    """The error that a replica died of, from the traceback that Serve passes on: its last line that is not indented."""
    lines = [line for line in message.splitlines() if line.strip() and not line.startswith((" ", "\t"))]
    last = lines[-1].strip() if lines else "Serve gives no reason"
    head, separator, rest = last.partition(": ")
    return rest if separator and "." in head and " " not in head else last


def free_port(wanted: int) -> int:
    """`wanted`, or the next port on the loopback interface that nobody listens on; 0: any. Raises ServingError."""
    if wanted == 0:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind((HOST, 0))
            return int(listener.getsockname()[1])
    last = min(wanted + _PORTS_TRIED, 65536) - 1
    for port in range(wanted, last + 1):
        if ports.is_free(port, HOST):
            return port
    raise ServingError(f"ports {wanted} to {last} are busy, wanted one that is free.", hint="`--set serve.port=0` takes any.")
