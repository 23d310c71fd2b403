"""Deploys on a real Serve: answers, versions, failures that leave the old version serving. The tests share one Serve instance."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from foundry_ray.artifacts import manifests, open_store
from foundry_ray.assets import find
from foundry_ray.clock import SystemClock
from foundry_ray.config import LimitsConfig, ServeConfig, Settings, StoreConfig
from foundry_ray.errors import ArtifactCorrupt, ReplicaUnhealthy, ServingError
from foundry_ray.runtime.session import Session
from foundry_ray.serving import Client, delete, deploy, endpoints, query
from foundry_ray.serving.instance import RayServe
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.types import CompressionRecipe, Endpoint, ModelArtifact, RegistryEntry

SHAPE = (1, 4, 4)
CLASSES = ("zero", "one", "two")
IMAGES = np.random.default_rng(0).integers(0, 256, (5, *SHAPE)).astype(np.uint8)


def _onnx(scale: float) -> bytes:
    """A linear classifier over pixels; `scale` tells versions apart."""
    weights = (np.random.default_rng(1).normal(size=(16, 3)) * scale).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return cast(bytes, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString())


class _Shop:
    """A store with registered versions, and what a deploy needs."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(home=folder / "home")
        self.store = open_store(f"file://{folder}/store", settings=self.settings)
        self.reporter = RecordingReporter()

    def entry(self, version: int, data: bytes, *, name: str = "lin") -> RegistryEntry:
        ref = manifests.publish(
            self.store, kind="model", files={"model.onnx": data}, meta={"classes": list(CLASSES), "version": version}, created_at=""
        )
        model = ModelArtifact(artifact=ref, family="linear", num_params=48, num_macs=48, size_bytes=len(data), recipe=CompressionRecipe())
        return RegistryEntry(name=name, version=version, model=model, report="", passed=True)

    def deploy(self, entry: RegistryEntry, *, config: ServeConfig | None = None, timeout_s: float = 30) -> Endpoint:
        self.reporter = RecordingReporter()
        return deploy(
            entry,
            config or ServeConfig(port=0, slo={"p95_ms": 5000}),
            limits=LimitsConfig(deploy_timeout_s=timeout_s),
            store=self.store,
            store_config=StoreConfig(uri=self.store.uri),
            settings=self.settings,
            session=NO_SESSION,
            clock=SystemClock(),
            reporter=self.reporter,
        )

    def break_blob(self, entry: RegistryEntry) -> None:
        """Flip the model's bytes on disk."""
        sha = manifests.load_manifest(self.store, entry.model.artifact.key).files["model.onnx"].sha256
        self.store.put(f"blobs/sha256/{sha[:2]}/{sha}", b"not the model")


NO_SESSION = cast(Session, None)  # replicas that reserve no CPU ask nothing of the session


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, ray_session: object) -> Iterator[_Shop]:
    yield _Shop(tmp_path_factory.mktemp("shop"))
    from ray import serve

    serve.shutdown()


class _Traffic:
    """Asks an endpoint all the time while the block runs."""

    def __init__(self, url: str) -> None:
        self.seen: list[str] = []
        self._waits_s = [0.0]
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        with Client(self._url) as client:
            while not self._stop.is_set():
                began_s = time.monotonic()
                try:
                    self.seen.append(client.infer(IMAGES[:1]).model_version)
                except ServingError as error:
                    self.seen.append(str(error))
                self._waits_s.append(time.monotonic() - began_s)

    def __enter__(self) -> _Traffic:
        self._began_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.duration_s = time.monotonic() - self._began_s
        self._stop.set()
        self._thread.join()

    @property
    def gap_ratio(self) -> float:
        """The longest wait for an answer, as a share of the whole time; near 1 where nothing served for a while."""
        return max(self._waits_s) / self.duration_s


def _expected(scale: float) -> np.ndarray:
    return IMAGES.reshape(5, 16).astype(np.float32) @ (np.random.default_rng(1).normal(size=(16, 3)) * scale).astype(np.float32)


@pytest.mark.parametrize("binary", [True, False])
def test_a_deployed_version_answers_with_logits_and_class_names(shop: _Shop, binary: bool) -> None:
    endpoint = shop.deploy(shop.entry(1, _onnx(1.0)))
    answer = query(endpoint.url, IMAGES, binary=binary)
    np.testing.assert_allclose(answer.logits_NK, _expected(1.0), rtol=1e-4, atol=1e-2)
    assert answer.labels == tuple(CLASSES[index] for index in _expected(1.0).argmax(axis=1))
    assert (answer.model_version, endpoint.model_version, endpoint.status, endpoint.num_replicas) == ("1", "1", "RUNNING", 1)
    assert shop.reporter.warnings == []


def test_deploying_what_serves_already_changes_nothing(shop: _Shop) -> None:
    before = _replica_pids()
    endpoint = shop.deploy(shop.entry(1, _onnx(1.0)))
    assert _replica_pids() == before
    assert endpoints(NO_SESSION) == (endpoint,)


def test_a_replica_holds_no_torch(shop: _Shop) -> None:
    shop.deploy(shop.entry(1, _onnx(1.0)))
    for pid in _replica_pids():
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "onnxruntime" in maps
        assert "libtorch" not in maps


def test_a_wrong_request_is_refused_in_the_words_of_the_protocol(shop: _Shop) -> None:
    endpoint = shop.deploy(shop.entry(1, _onnx(1.0)))
    with pytest.raises(ServingError, match=r"answered 400: the input has another shape\. Got \[1, 1, 5, 5\], wanted \[-1, 1, 4, 4\]"):
        query(endpoint.url, np.zeros((1, 1, 5, 5), np.uint8))
    with pytest.raises(ServingError, match=r"answered 404: there is no model 'other' here\. Got other, wanted lin"):
        query(endpoint.url, IMAGES, model="other")


def test_the_health_and_metadata_paths_answer(shop: _Shop) -> None:
    endpoint = shop.deploy(shop.entry(1, _onnx(1.0)))
    with Client(endpoint.url) as client:
        assert client.get("/v2/health/live") == {"live": True}
        assert client.get("/v2/health/ready") == {"ready": True}
        assert client.get("/v2/models/lin/ready") == {"name": "lin", "ready": True}
        assert cast(dict[str, object], client.get("/v2/models/lin"))["versions"] == ["1"]
        assert cast(dict[str, object], client.get("/v2"))["name"] == "foundry_ray"


def test_a_new_version_takes_over_without_a_gap_or_a_failed_request(shop: _Shop) -> None:
    endpoint = shop.deploy(shop.entry(1, _onnx(1.0)))
    with _Traffic(endpoint.url) as traffic:
        shop.deploy(shop.entry(2, _onnx(2.0)))
    assert set(traffic.seen) == {"1", "2"}
    assert traffic.gap_ratio < 0.4


def test_a_corrupt_model_is_refused_before_serve_is_touched(shop: _Shop) -> None:
    endpoint = shop.deploy(shop.entry(2, _onnx(2.0)))
    before = _replica_pids()
    broken = shop.entry(3, _onnx(3.0))
    shop.break_blob(broken)
    with pytest.raises(ArtifactCorrupt, match="wanted"):
        shop.deploy(broken)
    assert _replica_pids() == before
    assert query(endpoint.url, IMAGES).model_version == "2"


def test_a_version_whose_replica_does_not_start_leaves_the_old_one_serving(shop: _Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = shop.deploy(shop.entry(2, _onnx(2.0)))
    broken = shop.entry(4, _onnx(4.0))
    _before_serve_runs(monkeypatch, lambda: shop.break_blob(broken))
    with _Traffic(endpoint.url) as traffic, pytest.raises(ReplicaUnhealthy, match=r"lin:4 did not start: .*has sha256.*Version 2 still serves"):
        shop.deploy(broken)
    assert set(traffic.seen) == {"2"}
    assert traffic.gap_ratio < 0.4
    assert query(endpoint.url, IMAGES).model_version == "2"
    assert [(item.model_version, item.status) for item in endpoints(NO_SESSION)] == [("2", "RUNNING")]


def test_a_first_version_that_does_not_start_leaves_nothing_behind(shop: _Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = shop.entry(1, _onnx(5.0), name="fresh")
    _before_serve_runs(monkeypatch, lambda: shop.break_blob(broken))
    with pytest.raises(ReplicaUnhealthy, match="Nothing was served before, and nothing is now"):
        shop.deploy(broken)
    assert "fresh" not in [item.app_name for item in endpoints(NO_SESSION)]


def test_an_endpoint_slower_than_promised_is_a_warning(shop: _Shop) -> None:
    shop.deploy(shop.entry(2, _onnx(2.0)), config=ServeConfig(port=0, slo={"p95_ms": 0.001}))
    assert any("wanted 0.001 ms at most" in warning for warning in shop.reporter.warnings)


def test_the_shipped_config_file_builds_an_application(shop: _Shop, ray_session: object) -> None:
    from foundry_ray import registry
    from foundry_ray.serving.app import build

    registry.register(shop.store, name="mnist", model=shop.entry(1, _onnx(1.0)).model, report_key="", passed=True, run_id="r", clock=SystemClock())
    document = yaml.safe_load(find("serve", "mnist", key="serve").read_text())
    [app] = document["applications"]
    assert app["import_path"] == "foundry_ray.serving.app:build"
    built = build({**app["args"], "store": shop.store.uri, "home": str(shop.settings.home)})
    assert built is not None


def test_deleting_an_application_frees_its_route(shop: _Shop) -> None:
    endpoint = shop.deploy(shop.entry(1, _onnx(1.0), name="gone"))
    delete("gone", NO_SESSION)
    with pytest.raises(ServingError, match="answered 404"):
        query(endpoint.url, IMAGES, model="gone")
    with pytest.raises(ServingError, match="gone is not deployed; deployed is"):
        delete("gone", NO_SESSION)


def _replica_pids() -> set[int]:
    details = RayServe()._client().get_serve_details()
    return {replica["pid"] for app in details["applications"].values() for one in app["deployments"].values() for replica in one["replicas"]}


def _before_serve_runs(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[], object]) -> None:
    """Spoil something between the check in the driver and the start of the replicas."""
    run = RayServe.run

    def spoil_then_run(self: RayServe, spec: object) -> None:
        spoil()
        monkeypatch.undo()
        run(self, spec)  # type: ignore[arg-type]

    monkeypatch.setattr(RayServe, "run", spoil_then_run)
