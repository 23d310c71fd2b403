"""A small client of the Open Inference Protocol v2 over one kept connection; the standard library, orjson and numpy.

with Client("http://127.0.0.1:8000/mnist") as client:
    answer = client.infer(images_NCHW)
"""

from __future__ import annotations

import http.client
import math
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from foundry_ray.errors import ServingError
from foundry_ray.serving.protocol import CLASSES, HEADER_LENGTH, INPUT, LOGITS, decode_strings
from foundry_ray.types import Json

if TYPE_CHECKING:
    import numpy as np

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the endpoint said: a class name per image, logits float32 (N, K), the version that answered, and the time of the round trip."""

    labels: tuple[str, ...]
    logits_NK: np.ndarray
    model_version: str
    latency_ms: float


class Client:
    """One endpoint.

    Args:
        url: Base address of the application, as `Endpoint.url`.
        model: Name of the model; asked from the endpoint where it is not given.
        timeout_s: Longest wait for one answer.
    """

    def __init__(self, url: str, *, model: str | None = None, timeout_s: float = _TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ServingError(f"the address is {url!r}, wanted http://HOST:PORT/APP.", hint="`foundry endpoints list` prints addresses.")
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.url = url.rstrip("/")
        self._base = parts.path.rstrip("/")
        self._connection = make(parts.hostname, parts.port, timeout=timeout_s)
        self._model = model

    def get(self, path: str) -> Json:
        """The document at a path below the application, for example "/v2". Raises ServingError."""
        import orjson

        _, body = self._exchange("GET", path, None, {})
        document: Json = orjson.loads(body)
        return document

    def infer(self, images_NCHW: np.ndarray, *, binary: bool = True) -> Answer:
        """Classify uint8 images (N, C, H, W), as raw tensors or as JSON.

        Raises:
            ServingError: Nobody answers, or the endpoint refused the request; the message is its own.
        """
        path = f"/v2/models/{self._model or self._find_model()}/infer"
        body, headers = _request(images_NCHW, binary)
        began_s = time.perf_counter()
        received, raw = self._exchange("POST", path, body, headers)
        latency_ms = (time.perf_counter() - began_s) * 1e3
        return _answer(raw, received.get(HEADER_LENGTH), latency_ms)

    def _find_model(self) -> str:
        document = self.get("/v2")
        models = document.get("models") if isinstance(document, dict) else None
        if not isinstance(models, list) or not models:
            raise ServingError(f"{self.url} names no model.", hint="give the model's name.")
        self._model = str(models[0])
        return self._model

    def _exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[http.client.HTTPMessage, bytes]:
        try:
            response, raw = self._send(method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ServingError(
                f"{self.url} does not answer: {error or type(error).__name__}.", hint="`foundry endpoints list` shows what is deployed."
            ) from error
        if response.status != 200:
            raise ServingError(f"{self.url} answered {response.status}: {_reason(raw)}", hint="`foundry endpoints show` shows its state.")
        return response.headers, raw

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[http.client.HTTPResponse, bytes]:
        is_kept = self._connection.sock is not None
        try:
            self._connection.request(method, self._base + path, body, headers)
            response = self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if not is_kept:
                raise
            # The server may close an idle connection at any moment; a request that meets this was not processed.
            self._connection.close()
            self._connection.request(method, self._base + path, body, headers)
            response = self._connection.getresponse()
        return response, response.read()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def query(url: str, images_NCHW: np.ndarray, *, model: str | None = None, binary: bool = True, timeout_s: float = _TIMEOUT_S) -> Answer:
    """One request on a connection of its own; see `Client.infer`."""
    with Client(url, model=model, timeout_s=timeout_s) as client:
        return client.infer(images_NCHW, binary=binary)


def _request(images_NCHW: np.ndarray, binary: bool) -> tuple[bytes, dict[str, str]]:
    import numpy as np
    import orjson

    tensor: dict[str, object] = {"name": INPUT, "datatype": str(images_NCHW.dtype).upper(), "shape": list(images_NCHW.shape)}
    if not binary:
        tensor["data"] = np.ascontiguousarray(images_NCHW).ravel()
        return orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY), {"content-type": "application/json"}
    raw = np.ascontiguousarray(images_NCHW).tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    header = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return header + raw, {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(header))}


def _answer(raw: bytes, header_length: str | None, latency_ms: float) -> Answer:
    import numpy as np
    import orjson

    length = len(raw) if header_length is None else int(header_length)
    document = orjson.loads(raw[:length])
    tensors: dict[str, object] = {}
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        tensors[output["name"]] = output["data"] if size is None else raw[length : length + size]
        length += size or 0
    logits, classes = tensors[LOGITS], tensors[CLASSES]
    flat = np.frombuffer(logits, dtype="<f4") if isinstance(logits, bytes) else np.asarray(logits, dtype=np.float32)
    names = decode_strings(classes) if isinstance(classes, bytes) else list(classes)  # type: ignore[call-overload]
    rows = math.prod(document["outputs"][0]["shape"][:1])
    return Answer(labels=tuple(names), logits_NK=flat.reshape(rows, -1), model_version=document["model_version"], latency_ms=latency_ms)


def _reason(raw: bytes) -> str:
    import orjson

    try:
        document = orjson.loads(raw)
        return f"{document['error']} Got {document['got']}, wanted {document['wanted']}."
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return raw[:200].decode("utf-8", "replace") or "nothing."
