"""A Serve in memory, and a model that needs no runtime."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from foundry_ray.serving.instance import AppState
from foundry_ray.serving.protocol import ModelSignature
from foundry_ray.serving.servable import Servable
from foundry_ray.serving.spec import ReplicaSpec


class FakeServe:
    """Serve with the promise of a surge rollout: what does not start leaves the old version running."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.broken: dict[int, str] = {}
        self.stuck: set[int] = set()
        self._port: int | None = None
        self._apps: dict[str, AppState] = {}

    def port(self) -> int | None:
        return self._port

    def start(self, port: int) -> None:
        self._port = port

    def apps(self) -> Mapping[str, AppState]:
        return self._apps

    def run(self, spec: ReplicaSpec) -> None:
        self.runs.append(spec.version)
        message = self.broken.get(spec.version, "")
        status = "DEPLOY_FAILED" if message else "DEPLOYING" if spec.version in self.stuck else "RUNNING"
        running = spec.num_replicas if status == "RUNNING" else 0
        self._apps[spec.name] = AppState(name=spec.name, status=status, message=message, spec=spec, num_running=running)

    def delete(self, name: str) -> None:
        del self._apps[name]

    def add_foreign(self, name: str) -> None:
        """An application that somebody else deployed."""
        self._apps[name] = AppState(name=name, status="RUNNING", message="", spec=None, num_running=1)


class FakeRuntime:
    """Sums the pixels of an image into two logits."""

    name = "fake"
    device = "cpu"
    input_shape = (1, 2, 2)
    input_dtype = "uint8"

    def run(self, images_NCHW: np.ndarray) -> np.ndarray:
        sums = images_NCHW.reshape(len(images_NCHW), -1).sum(axis=1, dtype=np.float32)
        return np.stack([sums, 100 - sums], axis=1)


@pytest.fixture
def fake_serve() -> FakeServe:
    return FakeServe()


@pytest.fixture
def servable() -> Servable:
    signature = ModelSignature(name="mnist", version="1", input_shape=(1, 2, 2), classes=("dark", "light"))
    return Servable(signature=signature, runtime=FakeRuntime(), has_class_names=True)
