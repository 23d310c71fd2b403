"""A cluster's dashboard over HTTP: one request, its time limit, and what its failure means.

The jobs interface is used as it is on the wire and not through Ray's client: a client process that needs no Ray starts in a tenth of a
second, every request has a time limit, and the token is an argument instead of a setting of the whole process.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from foundry_ray.errors import ClusterDenied, ClusterError, ClusterUnreachable, ConfigError, NoSuchJob
from foundry_ray.secrecy import Secret
from foundry_ray.types import Json

_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
_DENIED = (401, 403)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """Where a dashboard is, the token to show, and the time limit of one request."""

    url: str
    token: str | None = field(default=None, repr=False)
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ConfigError(
                f"The address is {self.url.rpartition('@')[2]!r}, wanted the URL of a dashboard.",
                hint="for example `--address http://127.0.0.1:8265`.",
            )

    @property
    def is_loopback(self) -> bool:
        """Whether the URL points at this machine (a tunnel may lead on from there)."""
        host = urlsplit(self.url).hostname or ""
        return host in _LOOPBACK_HOSTS or host.startswith("127.")

    def is_this_machine(self) -> bool:
        """Whether the cluster's node really is this machine: its name is ours. A tunnel to a cluster is found out here."""
        if not self.is_loopback:
            return False
        answer = self.get("/nodes?view=hostnamelist")
        data = answer.get("data") if isinstance(answer, dict) else None
        names = data.get("hostNameList") if isinstance(data, dict) else None
        return isinstance(names, list) and set(names) <= {socket.gethostname()}

    def get(self, path: str) -> Json:
        """GET, answered as JSON. Raises ClusterUnreachable, ClusterDenied, NoSuchJob or ClusterError."""
        return self.request("GET", path)

    def post(self, path: str, body: Json = None) -> Json:
        """POST a JSON document."""
        return self.request("POST", path, json.dumps(body).encode(), "application/json")

    def put(self, path: str, body: bytes) -> None:
        """PUT bytes."""
        self.request("PUT", path, body, "application/octet-stream")

    def exists(self, path: str) -> bool:
        """Whether GET finds something."""
        try:
            self.get(path)
        except NoSuchJob:
            return False
        return True

    def request(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> Json:
        """One request. Nothing is retried: a POST may have been carried out."""
        headers = {"Accept": "application/json"}
        if content_type:
            headers["Content-Type"] = content_type
        if self.token:
            headers["Authorization"] = Secret(f"Bearer {self.token}")
        connection = self._connection()
        try:
            connection.request(method, urlsplit(self.url).path.rstrip("/") + path, body=body, headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error.with_traceback(None)  # its frames hold the token as bytes
        finally:
            connection.close()
        return self._judge(answer.status, text, path)

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        if parts.scheme == "https":
            return http.client.HTTPSConnection(host, parts.port, timeout=self.timeout_s, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, parts.port, timeout=self.timeout_s)

    def _judge(self, status: int, text: str, path: str) -> Json:
        if status in _DENIED:
            said = "no token" if self.token is None else "its token"
            raise ClusterDenied(
                f"The cluster at {self.url} refuses {said} (HTTP {status}).",
                hint="put the cluster's token in a file and set FOUNDRY_TOKEN_PATH to it.",
                address=self.url,
            )
        if status == http.HTTPStatus.NOT_FOUND:
            raise NoSuchJob(
                f"The cluster at {self.url} has no {path.removeprefix('/api/')}: {_last_line(text)}.", hint="`foundry jobs list` shows its jobs."
            )
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise ClusterError(
                f"The cluster at {self.url} answers {path} with HTTP {status}: {_last_line(text)}.", hint="its dashboard's log says more."
            )
        try:
            answer: Json = json.loads(text) if text else None
        except ValueError:
            answer = text
        return answer

    def _unreachable(self, error: Exception) -> ClusterUnreachable:
        reason = f"no answer within {self.timeout_s:.0f} s" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        return ClusterUnreachable(
            f"No cluster answers at {self.url}: {reason}.",
            hint="check the address; `foundry cluster status` shows the local one.",
            address=self.url,
        )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1].rstrip(".")[:300] if lines else "no reason given"
