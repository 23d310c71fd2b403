"""The client against a small HTTP server: connections, answers, and the words of a refusal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import orjson
import pytest

from foundry_ray.errors import ServingError
from foundry_ray.serving import Client, query
from foundry_ray.serving.protocol import HEADER_LENGTH, ModelSignature, ProtocolError, format_infer, parse_infer, route, server_metadata

MODEL = ModelSignature(name="mnist", version="3", input_shape=(1, 2, 2), classes=("zero", "one"))
IMAGES = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)


class _Handler(BaseHTTPRequestHandler):
    """Answers with the logits (pixel sum, 3)."""

    protocol_version = "HTTP/1.1"
    connections: set[object]
    closes_after_answer = False

    def do_GET(self) -> None:
        self._send(200, orjson.dumps(server_metadata(MODEL, "1")), {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            route("POST", self.path.removeprefix("/app"), MODEL)
            request = parse_infer(body, self.headers.get(HEADER_LENGTH), MODEL)
        except ProtocolError as error:
            self._send(error.status, orjson.dumps(error.document()), {})
            return
        sums = request.images_NCHW.reshape(len(request.images_NCHW), -1).sum(axis=1, dtype=np.float32)
        answer, headers = format_infer(request, np.stack([sums, np.full_like(sums, 10)], axis=1), MODEL)
        self._send(200, answer, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.connections.add(self.client_address)
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        # Unannounced, as a server does that reaps idle connections.
        self.close_connection = self.closes_after_answer

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def handler() -> type[_Handler]:
    return type("Handler", (_Handler,), {"connections": set()})


@pytest.fixture
def url(handler: type[_Handler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/app"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("binary", [True, False])
def test_labels_and_logits_come_back(url: str, binary: bool) -> None:
    answer = query(url, IMAGES, binary=binary)
    assert answer.labels == ("one", "zero")
    assert answer.logits_NK.tolist() == [[6.0, 10.0], [22.0, 10.0]]
    assert answer.model_version == "3"
    assert answer.latency_ms > 0


def test_requests_share_one_connection(url: str, handler: type[_Handler]) -> None:
    with Client(url) as client:
        for _ in range(3):
            client.infer(IMAGES)
    assert len(handler.connections) == 1


def test_a_connection_that_the_server_closed_is_opened_again(url: str, handler: type[_Handler]) -> None:
    handler.closes_after_answer = True
    with Client(url, model="mnist") as client:
        assert [client.infer(IMAGES).labels for _ in range(3)] == [("one", "zero")] * 3
    assert len(handler.connections) == 3


def test_a_refusal_is_told_in_the_words_of_the_server(url: str) -> None:
    with pytest.raises(ServingError, match=r"answered 400: the input has another datatype\. Got FLOAT32, wanted UINT8"):
        query(url, IMAGES.astype(np.float32))
    with pytest.raises(ServingError, match=r"answered 404: there is no model 'x' here\. Got x, wanted mnist"):
        query(url, IMAGES, model="x")


def test_silence_is_an_error_with_the_address() -> None:
    with pytest.raises(ServingError, match=r"http://127\.0\.0\.1:9/app does not answer"):
        query("http://127.0.0.1:9/app", IMAGES)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ServingError, match=r"the address is '127.0.0.1:8000', wanted http://HOST:PORT/APP"):
        Client("127.0.0.1:8000")
