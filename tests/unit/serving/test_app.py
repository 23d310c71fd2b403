"""A replica without Serve: requests in, answers out; and what a servable model must do before it serves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace

import numpy as np
import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response

from foundry_ray.artifacts import manifests
from foundry_ray.errors import ConfigError, OutOfRange, ReplicaUnhealthy, UnknownKey
from foundry_ray.serving import app
from foundry_ray.serving.servable import Servable, load_servable
from foundry_ray.serving.spec import ReplicaSpec
from foundry_ray.testing.stores import MemoryStore

from .conftest import FakeRuntime

SPEC = ReplicaSpec(name="mnist", version=1, model="artifacts/model/x.json", store="file:///s", home="/h")


def _request(method: str, path: str, body: bytes = b"") -> Request:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "method": method, "path": f"/mnist{path}", "root_path": "/mnist", "headers": [], "query_string": b""}
    return Request(scope, receive)


def _call(monkeypatch: pytest.MonkeyPatch, model: Servable, *requests: Request) -> list[Response]:
    monkeypatch.setattr(app, "load_servable", lambda spec, store: model)
    monkeypatch.setattr(app, "open_spec_store", lambda spec: None)

    async def serve() -> list[Response]:
        server = app.ModelServer()
        await server.reconfigure(SPEC.model_dump(mode="json"))
        server.check_health()
        return [await server(request) for request in requests]

    return asyncio.run(serve())


def test_an_image_comes_back_as_logits_and_a_label(monkeypatch: pytest.MonkeyPatch, servable: Servable) -> None:
    document = {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 2, 2], "data": [10, 20, 30, 30]}]}
    [response] = _call(monkeypatch, servable, _request("POST", "/v2/models/mnist/infer", orjson.dumps(document)))
    outputs = orjson.loads(response.body)["outputs"]
    assert response.status_code == 200
    assert [output["data"] for output in outputs] == [[90.0, 10.0], ["dark"]]


def test_a_bad_request_is_answered_with_got_and_wanted(monkeypatch: pytest.MonkeyPatch, servable: Servable) -> None:
    [response, missing] = _call(monkeypatch, servable, _request("POST", "/v2/models/mnist/infer", b"[]"), _request("GET", "/v2/models/x"))
    assert (response.status_code, missing.status_code) == (400, 404)
    assert orjson.loads(response.body) == {"error": "the request is not a JSON object.", "got": "list", "wanted": "an object with `inputs`"}
    assert orjson.loads(missing.body)["wanted"] == "mnist"


def test_a_model_that_fails_gives_an_answer_and_not_a_hang(monkeypatch: pytest.MonkeyPatch, servable: Servable) -> None:
    def fail(self: FakeRuntime, images: np.ndarray) -> np.ndarray:
        raise MemoryError("no memory")

    monkeypatch.setattr(FakeRuntime, "run", fail)
    document = {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 2, 2], "data": [0, 0, 0, 0]}]}
    [response] = _call(monkeypatch, servable, _request("POST", "/v2/models/mnist/infer", orjson.dumps(document)))
    assert response.status_code == 500
    assert orjson.loads(response.body)["error"] == "the model failed: no memory"


def test_a_replica_without_a_model_is_not_healthy() -> None:
    with pytest.raises(ReplicaUnhealthy, match="no model is loaded"):
        app.ModelServer().check_health()
    assert asyncio.run(app.ModelServer()(_request("GET", "/v2/health/ready"))).status_code == 503


def test_a_new_spec_that_cannot_be_loaded_leaves_the_old_model_answering(monkeypatch: pytest.MonkeyPatch, servable: Servable) -> None:
    monkeypatch.setattr(app, "open_spec_store", lambda spec: None)

    async def swap() -> Response:
        server = app.ModelServer()
        monkeypatch.setattr(app, "load_servable", lambda spec, store: servable)
        await server.reconfigure(SPEC.model_dump(mode="json"))
        monkeypatch.setattr(app, "load_servable", lambda spec, store: load_servable(spec, MemoryStore()))
        with pytest.raises(Exception, match="is not in memory"):
            await server.reconfigure(SPEC.model_dump(mode="json"))
        return await server(_request("GET", "/v2/models/mnist"))

    assert orjson.loads(asyncio.run(swap()).body)["versions"] == ["1"]


def test_one_version_answers_a_request_whole_though_another_is_loaded_meanwhile(monkeypatch: pytest.MonkeyPatch, servable: Servable) -> None:
    document = {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 2, 2], "data": [10, 20, 30, 30]}]}
    second = replace(servable, signature=replace(servable.signature, version="2", classes=("night", "day")))
    monkeypatch.setattr(app, "open_spec_store", lambda spec: None)

    async def swap() -> Response:
        server = app.ModelServer()
        monkeypatch.setattr(app, "load_servable", lambda spec, store: servable)
        await server.reconfigure(SPEC.model_dump(mode="json"))
        monkeypatch.setattr(app, "load_servable", lambda spec, store: second)
        request = _request("POST", "/v2/models/mnist/infer", orjson.dumps(document))
        arrived = request._receive

        async def receive() -> object:
            await server.reconfigure(SPEC.model_dump(mode="json"))
            return await arrived()

        request._receive = receive
        return await server(request)

    answer = orjson.loads(asyncio.run(swap()).body)
    assert (answer["model_version"], answer["outputs"][1]["data"]) == ("2", ["night"])


def _published(store: MemoryStore, meta: dict[str, object]) -> ReplicaSpec:
    ref = manifests.publish(store, kind="model", files={"model.onnx": b"graph"}, meta=meta, created_at="")  # type: ignore[arg-type]
    return SPEC.model_copy(update={"model": ref.key})


@pytest.mark.parametrize(("meta", "classes"), [({"classes": ["a", "b"]}, ("a", "b")), ({}, ("0", "1")), ({"classes": ["a"]}, ("0", "1"))])
def test_class_names_come_from_the_manifest_or_are_numbers(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, meta: dict[str, object], classes: tuple[str, ...]
) -> None:
    monkeypatch.setattr("foundry_ray.inference.open_shipped", lambda onnx, meta, threads: FakeRuntime())
    loaded = load_servable(_published(store, meta), store)
    assert loaded.signature.classes == classes
    assert loaded.has_class_names == (classes == ("a", "b"))


def test_a_replica_runs_the_runtime_that_the_model_ships_with(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[dict[str, object]] = []

    def spy(onnx: bytes, **options: object) -> FakeRuntime:
        opened.append(options)
        return FakeRuntime()

    monkeypatch.setattr("foundry_ray.inference.shipping.open_runtime", spy)
    meta = {"runtime": {"name": "openvino", "threads": 2, "precision": "bf16"}}
    load_servable(_published(store, meta).model_copy(update={"threads": 3}), store)
    assert opened == [{"threads": 3, "runtime": "openvino", "precision": "bf16"}], "threads are the deployer's, who knows the recipe's"


def test_a_model_of_token_ids_has_no_endpoint(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tokens(FakeRuntime):
        input_shape, input_dtype = (5,), "int64"

    monkeypatch.setattr("foundry_ray.inference.open_shipped", lambda onnx, meta, threads: Tokens())
    with pytest.raises(ConfigError, match=r"mnist:1 takes int64 rows of shape \(5,\), wanted images"):
        load_servable(_published(store, {}), store)


def test_a_model_whose_logits_are_not_finite_does_not_serve(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeRuntime, "run", lambda self, images: np.full((len(images), 2), np.nan, np.float32))
    monkeypatch.setattr("foundry_ray.inference.open_shipped", lambda onnx, meta, threads: FakeRuntime())
    with pytest.raises(ReplicaUnhealthy, match=r"mnist:1 does not answer: 1 black images gave logits of shape \(1, 2\), finite: False"):
        load_servable(_published(store, {}), store)


def test_arguments_of_a_config_file_are_checked() -> None:
    with pytest.raises(UnknownKey, match="replicas"):
        app.build({"model": "mnist@champion", "replicas": 2})
    with pytest.raises(OutOfRange, match="num_replicas is 0"):
        app.build({"model": "mnist@champion", "serve": {"num_replicas": 0}})


def test_what_a_replica_imports_holds_no_torch() -> None:
    code = (
        "import sys, foundry_ray.serving, foundry_ray.serving.app, foundry_ray.inference, foundry_ray.artifacts.manifests, onnxruntime;"
        "print(sorted({'torch', 'ray', 'onnx', 'deepspeed', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_loads_no_runtime_and_no_numpy() -> None:
    code = "import sys, foundry_ray.serving; print(sorted({'torch', 'ray', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_spec_survives_the_way_through_serve() -> None:
    assert ReplicaSpec.model_validate(orjson.loads(orjson.dumps(SPEC.model_dump(mode="json")))) == SPEC
