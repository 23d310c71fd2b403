"""The Open Inference Protocol v2 as pure functions: bytes to tensors, tensors to bytes, paths to verbs.

Decides: which requests are well formed, and what the answer to a malformed one says (`{"error", "got", "wanted"}`). Supports JSON and
the binary tensor extension (`Inference-Header-Content-Length`). Leaves to others: HTTP, the model. Knows no Ray.

Specification: https://github.com/kserve/open-inference-protocol
Shapes: N images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from foundry_ray.types import Json

if TYPE_CHECKING:
    import numpy as np

INPUT = "pixels"
LOGITS = "logits"
CLASSES = "classes"
HEADER_LENGTH = "inference-header-content-length"
Verb = Literal["live", "ready", "server", "model", "model_ready", "infer"]
_EXTENSIONS: tuple[str, ...] = ("binary_tensor_data",)
_DATATYPE = "UINT8"


class ProtocolError(Exception):
    """A request that cannot be answered. `status` is the HTTP status; the rest is what the client reads."""

    def __init__(self, status: int, error: str, *, got: Json, wanted: Json) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.got = got
        self.wanted = wanted

    def document(self) -> dict[str, Json]:
        """The body of the answer."""
        return {"error": self.error, "got": self.got, "wanted": self.wanted}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSignature:
    """What the endpoint serves: the name and version in its paths, the shape of one input (C, H, W), the class names in label order."""

    name: str
    version: str
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    platform: str = "onnxruntime_onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A well-formed request: images as uint8 (N, C, H, W), and which outputs are wanted, in order, and which of them as bytes."""

    images_NCHW: np.ndarray
    outputs: tuple[str, ...] = (LOGITS, CLASSES)
    binary: frozenset[str] = frozenset()
    request_id: str | None = None


def route(method: str, path: str, model: ModelSignature) -> Verb:
    """What a request asks for. `path` is relative to the application. Raises ProtocolError 404 or 405."""
    parts = tuple(part for part in path.split("/") if part)
    verb = _fixed(parts) or _of_model(parts, model)
    allowed = "POST" if verb == "infer" else "GET"
    if method != allowed:
        raise ProtocolError(405, f"{path} does not take {method}.", got=method, wanted=allowed)
    return verb


def _fixed(parts: tuple[str, ...]) -> Verb | None:
    paths: dict[tuple[str, ...], Verb] = {("v2", "health", "live"): "live", ("v2", "health", "ready"): "ready", ("v2",): "server"}
    return paths.get(parts)


def _of_model(parts: tuple[str, ...], model: ModelSignature) -> Verb:
    if len(parts) < 3 or parts[:2] != ("v2", "models"):
        raise ProtocolError(404, "there is nothing at this path.", got="/" + "/".join(parts), wanted=f"/v2/models/{model.name}/infer")
    name, rest = parts[2], parts[3:]
    if name != model.name:
        raise ProtocolError(404, f"there is no model {name!r} here.", got=name, wanted=model.name)
    if rest[:1] == ("versions",):
        if rest[1:2] != (model.version,):
            raise ProtocolError(404, f"{name} is not served in this version.", got="/".join(rest[1:2]), wanted=model.version)
        rest = rest[2:]
    verbs: dict[tuple[str, ...], Verb] = {(): "model", ("ready",): "model_ready", ("infer",): "infer"}
    if rest not in verbs:
        raise ProtocolError(404, f"model {name} has nothing at this path.", got="/".join(rest), wanted=["infer", "ready"])
    return verbs[rest]


def server_metadata(model: ModelSignature, version: str) -> dict[str, Json]:
    """The answer to GET /v2; `models` is an addition to the protocol, for clients that know only the address."""
    return {"name": "foundry_ray", "version": version, "extensions": list(_EXTENSIONS), "models": [model.name]}


def model_metadata(model: ModelSignature) -> dict[str, Json]:
    """The answer to GET /v2/models/NAME."""
    num_classes = len(model.classes)
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": model.platform,
        "inputs": [{"name": INPUT, "datatype": _DATATYPE, "shape": [-1, *model.input_shape]}],
        "outputs": [
            {"name": LOGITS, "datatype": "FP32", "shape": [-1, num_classes]},
            {"name": CLASSES, "datatype": "BYTES", "shape": [-1]},
        ],
    }


def parse_infer(body: bytes, header_length: str | None, model: ModelSignature) -> InferRequest:
    """Read a request.

    Args:
        body: JSON, or JSON followed by raw tensors.
        header_length: The value of `Inference-Header-Content-Length`; None: the body is JSON alone.
        model: What the request must fit.

    Raises:
        ProtocolError: 400, with what was got and wanted.
    """
    header, tail = _split(body, header_length)
    tensor = _one_input(header)
    count = _check_shape(tensor, model)
    images = _pixels(tensor, tail, count * math.prod(model.input_shape))
    outputs, binary = _wanted_outputs(header)
    request_id = header.get("id")
    return InferRequest(
        images_NCHW=images.reshape(count, *model.input_shape),
        outputs=outputs,
        binary=binary,
        request_id=request_id if isinstance(request_id, str) else None,
    )


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Json], memoryview]:
    import orjson

    length = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdigit() or int(header_length) > len(body):
            raise _bad("the header Inference-Header-Content-Length does not fit the body.", header_length, f"a number of bytes, 0 to {len(body)}")
        length = int(header_length)
    try:
        header = orjson.loads(memoryview(body)[:length])
    except orjson.JSONDecodeError as error:
        raise _bad(f"the request is not JSON: {error}.", _shown(body[:40]), "a JSON object with `inputs`") from error
    if not isinstance(header, dict):
        raise _bad("the request is not a JSON object.", type(header).__name__, "an object with `inputs`")
    return header, memoryview(body)[length:]


def _one_input(header: Mapping[str, Json]) -> dict[str, Json]:
    inputs = header.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        got = f"{len(inputs)} inputs" if isinstance(inputs, list) else type(inputs).__name__
        raise _bad("`inputs` must hold one tensor.", got, f"one tensor named {INPUT}")
    tensor = inputs[0]
    if tensor.get("name") != INPUT:
        raise _bad("the input has another name.", tensor.get("name"), INPUT)
    if tensor.get("datatype") != _DATATYPE:
        raise _bad("the input has another datatype.", tensor.get("datatype"), _DATATYPE)
    return tensor


def _check_shape(tensor: Mapping[str, Json], model: ModelSignature) -> int:
    shape = tensor.get("shape")
    wanted: list[Json] = [-1, *model.input_shape]
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise _bad("`shape` is not a list of whole numbers.", shape, wanted)
    count = shape[0] if shape else 0
    if shape[1:] != wanted[1:] or not isinstance(count, int) or count < 1:
        raise _bad("the input has another shape.", shape, wanted)
    return count


def _pixels(tensor: Mapping[str, Json], tail: memoryview, num_bytes: int) -> np.ndarray:
    import numpy as np

    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    raw = _from_tail(tail, size) if size is not None else _from_json(tensor.get("data"))
    if len(raw) != num_bytes:
        raise _bad("the data does not fill the shape.", f"{len(raw)} values", f"{num_bytes} values")
    return np.frombuffer(raw, dtype=np.uint8)


def _from_tail(tail: memoryview, size: Json) -> memoryview:
    if type(size) is not int or size != len(tail):
        raise _bad("`binary_data_size` does not fit the bytes after the header.", size, len(tail))
    return tail


def _from_json(data: Json) -> bytes:
    if not isinstance(data, list):
        raise _bad("the input has no `data`.", type(data).__name__, "a flat or nested list of 0..255, or `binary_data_size`")
    while data and isinstance(data[0], list):
        if not all(isinstance(row, list) for row in data):
            raise _bad("`data` mixes numbers and lists.", "a ragged list", "a flat or nested list")
        data = [value for row in data if isinstance(row, list) for value in row]
    try:
        return bytes(data)  # type: ignore[arg-type]  # checks each value: a whole number in 0..255
    except (TypeError, ValueError) as error:
        raise _bad("`data` holds a value that is no pixel.", _first_bad(data), "whole numbers from 0 to 255") from error


def _first_bad(data: Sequence[Json]) -> Json:
    return next((value for value in data if not isinstance(value, int) or not 0 <= value <= 255), None)


def _wanted_outputs(header: Mapping[str, Json]) -> tuple[tuple[str, ...], frozenset[str]]:
    is_all_binary = _flag(header, "binary_data_output")
    entries = header.get("outputs")
    if entries is None:
        return (LOGITS, CLASSES), frozenset((LOGITS, CLASSES)) if is_all_binary else frozenset()
    names: list[str] = []
    binary: set[str] = set()
    for entry in entries if isinstance(entries, list) else [entries]:
        name = entry.get("name") if isinstance(entry, dict) else entry
        if name not in (LOGITS, CLASSES) or not isinstance(entry, dict):
            raise _bad("there is no such output.", name, [LOGITS, CLASSES])
        names.append(str(name))
        if _flag(entry, "binary_data", default=is_all_binary):
            binary.add(str(name))
    return tuple(names), frozenset(binary)


def _flag(holder: Mapping[str, Json], name: str, *, default: bool = False) -> bool:
    parameters = holder.get("parameters")
    value = parameters.get(name, default) if isinstance(parameters, dict) else default
    return value is True


def format_infer(request: InferRequest, logits_NK: np.ndarray, model: ModelSignature) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of the answer. Logits are float32; classes are the names of the largest logit."""
    import orjson

    tail: list[bytes] = []
    outputs = [_output(name, request, logits_NK, model, tail) for name in request.outputs]
    document: dict[str, object] = {"model_name": model.name, "model_version": model.version, "outputs": outputs}
    if request.request_id is not None:
        document["id"] = request.request_id
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not request.binary:
        return header, {"content-type": "application/json"}
    return b"".join((header, *tail)), {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(header))}


def _output(name: str, request: InferRequest, logits_NK: np.ndarray, model: ModelSignature, tail: list[bytes]) -> dict[str, object]:
    labels = [model.classes[index] for index in logits_NK.argmax(axis=1)] if name == CLASSES else []
    shape = list(logits_NK.shape) if name == LOGITS else [len(labels)]
    output: dict[str, object] = {"name": name, "datatype": "FP32" if name == LOGITS else "BYTES", "shape": shape}
    if name not in request.binary:
        output["data"] = logits_NK.ravel() if name == LOGITS else labels
        return output
    raw = logits_NK.astype("<f4", copy=False).tobytes() if name == LOGITS else encode_strings(labels)
    output["parameters"] = {"binary_data_size": len(raw)}
    tail.append(raw)
    return output


def encode_strings(values: Sequence[str]) -> bytes:
    """A BYTES tensor: each element its length as little-endian uint32, then its UTF-8."""
    return b"".join(struct.pack("<I", len(raw)) + raw for raw in (value.encode() for value in values))


def decode_strings(raw: bytes) -> list[str]:
    """The inverse of `encode_strings`. Raises struct.error for bytes that end early."""
    values, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        values.append(raw[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return values


def _bad(error: str, got: Json, wanted: Json) -> ProtocolError:
    return ProtocolError(400, error, got=got, wanted=wanted)


def _shown(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
