"""The protocol as pure functions: what is accepted, what is refused and in which words."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from foundry_ray.serving import protocol
from foundry_ray.serving.protocol import InferRequest, ModelSignature, ProtocolError

MODEL = ModelSignature(name="mnist", version="3", input_shape=(1, 2, 2), classes=("zero", "öne"))


def _tensor(**changes: object) -> dict[str, object]:
    return {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 2, 2], "data": [0, 1, 2, 255], **changes}


def _parse(document: object, header_length: str | None = None, tail: bytes = b"") -> InferRequest:
    return protocol.parse_infer(orjson.dumps(document) + tail, header_length, MODEL)


@pytest.mark.parametrize("data", [[0, 1, 2, 255], [[[[0, 1], [2, 255]]]]])
def test_flat_and_nested_json_give_the_same_pixels(data: list[object]) -> None:
    request = _parse({"id": "a", "inputs": [_tensor(data=data)]})
    assert request.images_NCHW.dtype == np.uint8
    assert request.images_NCHW.tolist() == [[[[0, 1], [2, 255]]]]
    assert (request.request_id, request.outputs, request.binary) == ("a", ("logits", "classes"), frozenset())


def test_raw_bytes_after_the_header_give_the_pixels() -> None:
    document = {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [2, 1, 2, 2], "parameters": {"binary_data_size": 8}}]}
    request = _parse(document, str(len(orjson.dumps(document))), bytes(range(8)))
    assert request.images_NCHW.shape == (2, 1, 2, 2)
    assert request.images_NCHW.ravel().tolist() == list(range(8))


@pytest.mark.parametrize(
    ("document", "error", "got"),
    [
        ([], "not a JSON object", "list"),
        ({}, "must hold one tensor", "NoneType"),
        ({"inputs": [_tensor(), _tensor()]}, "must hold one tensor", "2 inputs"),
        ({"inputs": [_tensor(name="x")]}, "another name", "x"),
        ({"inputs": [_tensor(datatype="FP32")]}, "another datatype", "FP32"),
        ({"inputs": [_tensor(shape=[1, 1, 3, 2])]}, "another shape", [1, 1, 3, 2]),
        ({"inputs": [_tensor(shape=[0, 1, 2, 2])]}, "another shape", [0, 1, 2, 2]),
        ({"inputs": [_tensor(shape=[-1, 1, 2, 2])]}, "another shape", [-1, 1, 2, 2]),
        ({"inputs": [_tensor(shape=[])]}, "another shape", []),
        ({"inputs": [_tensor(shape="1")]}, "not a list of whole numbers", "1"),
        ({"inputs": [_tensor(shape=[True, 1, 2, 2])]}, "not a list of whole numbers", [True, 1, 2, 2]),
        ({"inputs": [_tensor(shape=[10**12, 1, 2, 2])]}, "does not fill the shape", "4 values"),
        ({"inputs": [_tensor(data=[0, 1, 2])]}, "does not fill the shape", "3 values"),
        ({"inputs": [_tensor(data=[0, 1, 2, 256])]}, "no pixel", 256),
        ({"inputs": [_tensor(data=[0, 1, 2, -1])]}, "no pixel", -1),
        ({"inputs": [_tensor(data=[0, 1, 2, 0.5])]}, "no pixel", 0.5),
        ({"inputs": [_tensor(data=[0, 1, 2, "3"])]}, "no pixel", "3"),
        ({"inputs": [_tensor(data=[[0, 1], 2, 3])]}, "mixes numbers and lists", "a ragged list"),
        ({"inputs": [_tensor(data=None)]}, "has no `data`", "NoneType"),
        ({"inputs": [_tensor(parameters={"binary_data_size": 4})]}, "does not fit the bytes", 4),
        ({"inputs": [_tensor()], "outputs": [{"name": "scores"}]}, "no such output", "scores"),
        ({"inputs": [_tensor()], "outputs": "logits"}, "no such output", "logits"),
    ],
)
def test_a_malformed_request_is_refused_with_what_was_got(document: object, error: str, got: object) -> None:
    with pytest.raises(ProtocolError, match=error) as caught:
        _parse(document)
    assert caught.value.status == 400
    assert caught.value.document()["got"] == got
    assert caught.value.document()["wanted"] is not None


@pytest.mark.parametrize("length", ["-1", "x", "999", "²"])
def test_a_header_length_that_does_not_fit_is_refused(length: str) -> None:
    with pytest.raises(ProtocolError, match="Inference-Header-Content-Length"):
        _parse({"inputs": [_tensor()]}, length)


def test_bytes_that_are_no_json_are_refused() -> None:
    with pytest.raises(ProtocolError, match="not JSON"):
        protocol.parse_infer(b"\xff{", None, MODEL)


def test_a_json_answer_holds_logits_and_labels() -> None:
    request = InferRequest(images_NCHW=np.zeros((2, 1, 2, 2), np.uint8), request_id="a")
    body, headers = protocol.format_infer(request, np.array([[1.5, 0], [0, 2]], np.float32), MODEL)
    document = orjson.loads(body)
    assert headers == {"content-type": "application/json"}
    assert (document["id"], document["model_name"], document["model_version"]) == ("a", "mnist", "3")
    assert document["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [2, 2], "data": [1.5, 0.0, 0.0, 2.0]}
    assert document["outputs"][1] == {"name": "classes", "datatype": "BYTES", "shape": [2], "data": ["zero", "öne"]}


def test_a_binary_answer_carries_what_its_header_announces() -> None:
    request = InferRequest(images_NCHW=np.zeros((1, 1, 2, 2), np.uint8), outputs=("classes", "logits"), binary=frozenset(("classes", "logits")))
    body, headers = protocol.format_infer(request, np.array([[0, 2]], np.float32), MODEL)
    length = int(headers[protocol.HEADER_LENGTH])
    sizes = [output["parameters"]["binary_data_size"] for output in orjson.loads(body[:length])["outputs"]]
    assert length + sum(sizes) == len(body)
    assert protocol.decode_strings(body[length : length + sizes[0]]) == ["öne"]
    assert np.frombuffer(body[length + sizes[0] :], "<f4").tolist() == [0.0, 2.0]


def test_one_output_can_be_asked_for_as_bytes() -> None:
    request = _parse({"inputs": [_tensor()], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]})
    assert (request.outputs, request.binary) == (("logits",), frozenset(("logits",)))


@pytest.mark.parametrize(
    ("method", "path", "verb"),
    [
        ("GET", "/v2/health/live", "live"),
        ("GET", "/v2/health/ready", "ready"),
        ("GET", "/v2", "server"),
        ("GET", "/v2/", "server"),
        ("GET", "/v2/models/mnist", "model"),
        ("GET", "/v2/models/mnist/ready", "model_ready"),
        ("GET", "/v2/models/mnist/versions/3/ready", "model_ready"),
        ("POST", "/v2/models/mnist/infer", "infer"),
        ("POST", "/v2/models/mnist/versions/3/infer", "infer"),
    ],
)
def test_paths_of_the_protocol_lead_to_verbs(method: str, path: str, verb: str) -> None:
    assert protocol.route(method, path, MODEL) == verb


@pytest.mark.parametrize(
    ("method", "path", "status", "got", "wanted"),
    [
        ("POST", "/v2/models/other/infer", 404, "other", "mnist"),
        ("GET", "/v2/models/mnist/versions/2/ready", 404, "2", "3"),
        ("GET", "/v2/models/mnist/weights", 404, "weights", ["infer", "ready"]),
        ("GET", "/", 404, "/", "/v2/models/mnist/infer"),
        ("GET", "/v2/models/mnist/infer", 405, "GET", "POST"),
        ("POST", "/v2/health/live", 405, "POST", "GET"),
    ],
)
def test_other_paths_are_refused_with_what_is_there(method: str, path: str, status: int, got: object, wanted: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.route(method, path, MODEL)
    assert (caught.value.status, caught.value.got, caught.value.wanted) == (status, got, wanted)


def test_the_model_metadata_tells_shapes_and_types() -> None:
    document = protocol.model_metadata(MODEL)
    assert document["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 1, 2, 2]}]
    assert document["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}, {"name": "classes", "datatype": "BYTES", "shape": [-1]}]
