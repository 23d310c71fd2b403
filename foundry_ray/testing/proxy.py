"""An HTTP/1.1 proxy on loopback that stands between a client and a real S3 server, and misbehaves as its layers say.

    with Proxy(server_port, faults) as proxy:
        open_store(StoreConfig(uri="s3://bucket", endpoint=proxy.url))

Without layers it forwards faithfully: path, query, headers (the Host that was signed among them) and body stay as they were; only the framing
of bodies is its own. It keeps whole bodies in memory. Each request is a connection of its own to the server, so that nothing that one request
broke meets the next one.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from foundry_ray.clock import SystemClock
from foundry_ray.protocols import Clock
from foundry_ray.testing.exchanges import Answer, Dropped, Forward, Layer, Request, without

_HOST = "127.0.0.1"
_TIMEOUT_S = 60.0
_OF_ONE_HOP = ("connection", "keep-alive", "expect", "transfer-encoding", "content-length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request that reached the proxy, without its body. `at_s` is monotonic; `status` what the client got, None where it was dropped."""

    at_s: float
    request: Request
    status: int | None

    @property
    def operation(self) -> str:
        return self.request.operation

    @property
    def key(self) -> str:
        return self.request.key


class Proxy:
    """A running proxy, as a context manager; layers see a request in the order given.

    Args:
        port: Of the server, on loopback. It may die and come back meanwhile: clients' connections are dropped until then.
        layers: What may change requests and answers on the way.
        tls: Speak https to clients with this certificate.
        clock: What `seen` is timed by; the system's where absent.
    """

    def __init__(self, port: int, *layers: Layer, tls: ssl.SSLContext | None = None, clock: Clock | None = None) -> None:
        self.seen: list[Seen] = []
        self._onward: Forward = partial(_ask, port)
        for layer in reversed(layers):
            self._onward = partial(_through, layer, self._onward)
        self._clock = clock or SystemClock()
        self._scheme = "https" if tls else "http"
        self._server = _Server(self._answer, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        """Where clients find it; by name with https, as a certificate says it."""
        host = "localhost" if self._scheme == "https" else _HOST
        return f"{self._scheme}://{host}:{self._server.server_address[1]}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join(timeout=_TIMEOUT_S)

    def count(self, *operations: str) -> int:
        """How many requests of these operations came; all, where none is named."""
        return sum(not operations or one.operation in operations for one in tuple(self.seen))

    def _answer(self, request: Request) -> Answer | None:
        at_s = self._clock.monotonic_s()
        try:
            answer = self._onward(request)
        except (Dropped, OSError, http.client.HTTPException):
            answer = None
        self.seen.append(Seen(at_s=at_s, request=replace(request, body=b""), status=answer.status if answer else None))
        return answer


def _through(layer: Layer, onward: Forward, request: Request) -> Answer:
    return layer(request, onward)


def _ask(port: int, request: Request) -> Answer:
    """Put the request to the server. A torn one is torn there too."""
    server = http.client.HTTPConnection(_HOST, port, timeout=_TIMEOUT_S)
    try:
        server.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
        for name, value in without(request.headers, "content-length") if not request.is_torn else request.headers:
            server.putheader(name, value)
        if not request.is_torn and (request.body or request.method in ("PUT", "POST")):
            server.putheader("Content-Length", str(len(request.body)))
        server.endheaders(request.body)
        if request.is_torn:
            raise Dropped
        answer = server.getresponse()
        return Answer(status=answer.status, headers=tuple(answer.getheaders()), body=answer.read())
    finally:
        server.close()


class _Server(ThreadingHTTPServer):
    """Knows its open connections, so that it can end without waiting for clients to hang up."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, answer: Any, tls: ssl.SSLContext | None) -> None:
        self.answer = answer
        self._open: set[socket.socket] = set()
        super().__init__((_HOST, 0), _Exchange)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the game; anything else ends the thread, which pytest reports."""
        if not isinstance(sys.exception(), OSError):
            raise

    def hang_up(self) -> None:
        for connection in tuple(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Exchange(BaseHTTPRequestHandler):
    """One client's connection: requests one after another, until one is dropped."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _TIMEOUT_S
    server: _Server

    def handle_any(self) -> None:
        body = self._chunked() if self.headers.get("Transfer-Encoding") else self._sized()
        headers = tuple(self.headers.items())
        is_torn = len(body) < int(self.headers.get("Content-Length") or 0)
        kept = headers if is_torn else without(headers, *_OF_ONE_HOP)
        answer = self.server.answer(Request(method=self.command, target=self.path, headers=kept, body=body, is_torn=is_torn))
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def log_message(self, format: str, *args: object) -> None:
        """Silent: `Proxy.seen` is the log."""

    def _sized(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0] or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, answer: Answer) -> None:
        is_bodiless = self.command == "HEAD" or answer.status in (204, 304)
        lines = [f"HTTP/1.1 {answer.status} {http.client.responses.get(answer.status, '')}"]
        lines += [f"{name}: {value}" for name, value in without(answer.headers, *_OF_ONE_HOP[:-1], *(() if is_bodiless else ("content-length",)))]
        lines += [] if is_bodiless else [f"Content-Length: {len(answer.body)}"]
        head = "\r\n".join([*lines, "", ""]).encode("latin1")
        self.wfile.write(head + (b"" if is_bodiless else answer.body[: answer.cut_at]))
        self.close_connection = self.close_connection or answer.cut_at is not None
