"""The proxy carries bytes faithfully, keeps a log, and breaks connections where a layer says so."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest

from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.faults import Faults, close_mid_body, drop_after, refuse, tear_upload
from foundry_ray.testing.proxy import Proxy


class _Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked, one fact a line, and the body last."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        self.server.bodies.append((length, body))
        if len(body) < length:
            self.close_connection = True
            return
        facts = [self.command, self.path, self.headers.get("Host", ""), self.headers.get("X-Amz-Date", ""), body.decode()]
        answer = "\n".join(facts).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("ETag", '"e"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = do_PUT

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


class _EchoServer(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self) -> None:
        self.bodies: list[tuple[int, bytes]] = []
        super().__init__(("127.0.0.1", 0), _Echo)

    def await_body(self, body: tuple[int, bytes]) -> None:
        """Wait until a request with this length and body came."""
        deadline_s = time.monotonic() + 10
        while body not in self.bodies:
            assert time.monotonic() < deadline_s, f"{body} did not come, only {self.bodies}"
            time.sleep(0.01)


@pytest.fixture
def echo() -> Iterator[_EchoServer]:
    with _EchoServer() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join(timeout=10)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def proxy(echo: _EchoServer, faults: Faults, clock: FakeClock) -> Iterator[Proxy]:
    with Proxy(echo.server_address[1], faults, clock=clock) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(proxy.url).port or 0, timeout=10)
    yield connection
    connection.close()


def test_a_request_arrives_as_it_was_sent(client: http.client.HTTPConnection) -> None:
    client.request("PUT", "/bucket/a%3Db?x=%2F&uploads", body=b"body", headers={"Host": "signed:1", "X-Amz-Date": "today", "Expect": "100-continue"})
    answer = client.getresponse()
    assert (answer.status, answer.headers["ETag"]) == (200, '"e"')
    assert answer.read().decode().splitlines() == ["PUT", "/bucket/a%3Db?x=%2F&uploads", "signed:1", "today", "body"]


def test_a_chunked_body_arrives_whole(client: http.client.HTTPConnection) -> None:
    client.request("PUT", "/bucket/a", body=iter([b"bo", b"dy"]), encode_chunked=True)
    assert client.getresponse().read().endswith(b"body")


def test_an_answer_without_a_body_keeps_its_length(client: http.client.HTTPConnection) -> None:
    client.request("HEAD", "/bucket/a")
    answer = client.getresponse()
    assert (int(answer.headers["Content-Length"]) > 10, answer.read()) == (True, b"")
    client.request("GET", "/bucket/a")
    assert client.getresponse().read().startswith(b"GET")


def test_the_log_says_what_came_when_and_how_it_ended(client: http.client.HTTPConnection, proxy: Proxy, faults: Faults, clock: FakeClock) -> None:
    faults.strike(refuse(503, "SlowDown"), times=1)
    client.request("GET", "/bucket/a")
    assert client.getresponse().read().startswith(b"<?xml")
    clock.advance(5)
    client.request("PUT", "/bucket/b", body=b"1")
    client.getresponse().read()
    first, second = proxy.seen
    assert ((first.operation, first.key, first.status), (second.operation, second.key, second.status)) == (
        ("GetObject", "a", 503),
        ("PutObject", "b", 200),
    )
    assert second.at_s - first.at_s == 5
    assert (proxy.count(), proxy.count("PutObject")) == (2, 1)


def test_a_lost_answer_is_a_closed_connection(client: http.client.HTTPConnection, proxy: Proxy, faults: Faults, echo: _EchoServer) -> None:
    faults.strike(drop_after, times=1)
    client.request("PUT", "/bucket/a", body=b"body")
    with pytest.raises(http.client.RemoteDisconnected):
        client.getresponse()
    assert (echo.bodies, proxy.seen[0].status) == ([(4, b"body")], None)


def test_a_body_that_is_cut_off_is_shorter_than_promised(client: http.client.HTTPConnection, faults: Faults) -> None:
    faults.strike(close_mid_body, times=1)
    client.request("GET", "/bucket/a")
    with pytest.raises(http.client.IncompleteRead):
        client.getresponse().read()


def test_a_torn_upload_is_torn_at_the_server_too(client: http.client.HTTPConnection, faults: Faults, echo: _EchoServer) -> None:
    faults.strike(tear_upload, times=1)
    client.request("PUT", "/bucket/a", body=b"0123")
    with pytest.raises(http.client.RemoteDisconnected):
        client.getresponse()
    client.close()
    client.request("PUT", "/bucket/b", body=b"4")
    client.getresponse().read()
    echo.await_body((4, b"01"))
    assert (1, b"4") in echo.bodies


def test_a_client_that_dies_amid_its_body_leaves_half_a_request_at_the_server(proxy: Proxy, echo: _EchoServer) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(proxy.url).port or 0), timeout=10) as connection:
        connection.sendall(b"PUT /bucket/a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n01")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    echo.await_body((4, b"01"))
    assert proxy.seen[0].status is None


def test_without_a_server_connections_end_unanswered() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with Proxy(taken.getsockname()[1]) as proxy:
            client = http.client.HTTPConnection("127.0.0.1", urlsplit(proxy.url).port or 0, timeout=10)
            client.request("GET", "/bucket/a")
            with pytest.raises(http.client.RemoteDisconnected):
                client.getresponse()
            client.close()


def test_a_proxy_ends_although_a_client_hangs_on(echo: _EchoServer) -> None:
    with Proxy(echo.server_address[1]) as proxy:
        client = http.client.HTTPConnection("127.0.0.1", urlsplit(proxy.url).port or 0, timeout=10)
        client.request("GET", "/bucket/a")
        client.getresponse().read()
    assert client.sock is not None
    assert client.sock.recv(1) == b""
    client.close()
