"""What the node that measures cannot run is told as it is, and not as a node that does not answer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import RayTaskError

from foundry_ray.errors import BadRecord, ConfigError, FoundryError, SearchError
from foundry_ray.protocols import RuntimeChoice
from foundry_ray.search.pool.measuring import RemoteMeter


def meter(monkeypatch: pytest.MonkeyPatch, raised: Exception) -> tuple[RemoteMeter, list[dict[str, object]]]:
    asked: list[dict[str, object]] = []

    def get(reference: object, *, timeout: float) -> object:
        raise raised

    monkeypatch.setattr(ray, "get", get)
    actor = SimpleNamespace(measure=SimpleNamespace(remote=lambda onnx, **options: asked.append(options)))
    return RemoteMeter(actor, "fingerprint", device="server"), asked


@pytest.mark.parametrize(
    "cause", [ConfigError("runtime openvino needs the package openvino", hint="install it"), BadRecord("no operator Foo", hint="export again")]
)
def test_a_runtime_that_is_missing_there_is_named(monkeypatch: pytest.MonkeyPatch, cause: FoundryError) -> None:
    remote, asked = meter(monkeypatch, RayTaskError("measure", "traceback", cause))
    choice = RuntimeChoice(name="openvino", threads=2)
    with pytest.raises(type(cause), match=cause.message):
        remote.measure(b"file", batch_size=4, runtime=choice)
    assert asked == [{"batch_size": 4, "runtime": choice}]


def test_a_node_that_fails_otherwise_is_a_node_that_did_not_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    remote, _ = meter(monkeypatch, RayTaskError("measure", "traceback", ValueError("broken")))
    with pytest.raises(SearchError, match="the node with 'server' did not measure a graph"):
        remote.measure(b"file", batch_size=1)
