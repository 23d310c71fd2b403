"""The order of a deploy, against a Serve in memory: what is kept when something goes wrong."""

from __future__ import annotations

import pickle
import socket

import pytest

from foundry_ray.errors import DeployTimeout, ReplicaUnhealthy, RolloutRejected, ServingError
from foundry_ray.serving.deployment import Rollout
from foundry_ray.serving.instance import free_port, parse_apps, reason_of
from foundry_ray.serving.rollout import Window
from foundry_ray.serving.servable import Servable
from foundry_ray.serving.spec import ReplicaSpec
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.types import Endpoint

from .conftest import FakeServe

GOOD = Window(latencies_ms=(4.0,) * 20)
BAD = Window(num_errors=20)


class _Desk:
    """Deploys versions of one model with the answers to the probes given beforehand; the last one repeats."""

    def __init__(self, serve: FakeServe, servable: Servable) -> None:
        self.serve = serve
        self.reporter = RecordingReporter()
        self.windows = [GOOD]
        self._servable = servable

    def deploy(self, version: int, *, slo_p95_ms: float = 50.0, port: int = 0) -> Endpoint:
        rollout = Rollout(self.serve, clock=FakeClock(), reporter=self.reporter, timeout_s=60, probe=self._probe)
        return rollout.deploy(_spec(version), self._servable, port=port, slo_p95_ms=slo_p95_ms)

    def _probe(self, url: str, servable: Servable) -> Window:
        return self.windows.pop(0) if len(self.windows) > 1 else self.windows[0]

    @property
    def serving(self) -> tuple[int, str] | None:
        app = self.serve.apps().get("mnist")
        return None if app is None or app.spec is None else (app.spec.version, app.status)


def _spec(version: int) -> ReplicaSpec:
    return ReplicaSpec(name="mnist", version=version, model=f"artifacts/model/{version}.json", store="file:///s", home="/h")


@pytest.fixture
def desk(fake_serve: FakeServe, servable: Servable) -> _Desk:
    return _Desk(fake_serve, servable)


def test_a_deploy_ends_with_the_address_of_what_serves(desk: _Desk) -> None:
    endpoint = desk.deploy(1)
    assert endpoint.url == f"http://127.0.0.1:{desk.serve.port()}/mnist"
    assert (endpoint.model_version, endpoint.status, endpoint.num_replicas) == ("1", "RUNNING", 1)
    assert desk.reporter.progresses[-1] == (3, 3, "version 1 serves")


def test_the_same_version_is_not_started_again(desk: _Desk) -> None:
    assert desk.deploy(1) == desk.deploy(1)
    assert desk.serve.runs == [1]


def test_the_same_version_is_started_again_where_it_does_not_answer(desk: _Desk) -> None:
    desk.deploy(1)
    desk.windows = [BAD, GOOD]
    desk.deploy(1)
    assert desk.serve.runs == [1, 1]
    assert desk.serving == (1, "RUNNING")


def test_a_version_that_does_not_start_gives_way_to_the_one_before(desk: _Desk) -> None:
    desk.deploy(1)
    desk.serve.broken[2] = "Traceback\n  File x\nfoundry_ray.errors.ArtifactCorrupt: wrong bytes."
    with pytest.raises(ReplicaUnhealthy, match=r"mnist:2 did not start: wrong bytes\. Version 1 still serves\.") as caught:
        desk.deploy(2)
    assert desk.serving == (1, "RUNNING")
    assert pickle.loads(pickle.dumps(caught.value)).facts == {"app_name": "mnist", "reason": "wrong bytes."}


def test_a_version_that_is_not_healthy_in_time_gives_way_to_the_one_before(desk: _Desk) -> None:
    desk.deploy(1)
    desk.serve.stuck.add(2)
    with pytest.raises(DeployTimeout, match=r"mnist:2 is DEPLOYING after 60 s, wanted RUNNING; .* Version 1 still serves"):
        desk.deploy(2)
    assert desk.serving == (1, "RUNNING")


def test_a_version_that_does_not_answer_gives_way_to_the_one_before(desk: _Desk) -> None:
    desk.deploy(1)
    desk.windows = [BAD]
    with pytest.raises(RolloutRejected, match=r"mnist:2 started, but 20 of 20 requests failed.* Version 1 still serves"):
        desk.deploy(2)
    assert desk.serving == (1, "RUNNING")


def test_a_first_version_that_does_not_start_is_removed(desk: _Desk) -> None:
    desk.serve.broken[1] = "no memory"
    with pytest.raises(ReplicaUnhealthy, match=r"did not start: no memory\. Nothing was served before, and nothing is now"):
        desk.deploy(1)
    assert desk.serving is None


def test_a_way_back_that_fails_is_told(desk: _Desk) -> None:
    desk.deploy(1)
    desk.serve.broken |= {1: "store is gone", 2: "wrong bytes"}
    with pytest.raises(ReplicaUnhealthy, match=r"wrong bytes\. Going back to version 1 failed too: mnist:1 did not start: store is gone"):
        desk.deploy(2)


def test_a_slow_endpoint_serves_with_a_warning(desk: _Desk) -> None:
    desk.deploy(1, slo_p95_ms=3.0)
    assert desk.reporter.warnings == ["mnist:1 serves, but p95 of 20 requests is 4.0 ms, wanted 3 ms at most."]
    assert desk.serving == (1, "RUNNING")


def test_an_application_of_somebody_else_is_left_alone(desk: _Desk) -> None:
    desk.serve.add_foreign("mnist")
    with pytest.raises(ServingError, match="an application mnist runs on this cluster that is not foundry's"):
        desk.deploy(1)
    assert desk.serve.runs == []


def test_a_busy_port_is_replaced_by_the_next_free_one_and_told(desk: _Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        wanted = busy.getsockname()[1]
        desk.deploy(1, port=wanted)
    assert desk.serve.port() != wanted
    assert f"serve.port is {wanted}, but the endpoint listens on {desk.serve.port()}" in desk.reporter.warnings[0]


def test_port_zero_takes_any_free_port() -> None:
    assert free_port(0) > 1024


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Error:\nTraceback (most recent call last):\n  File x\nfoundry_ray.errors.ArtifactNotFound: blobs/x is not there.", "blobs/x is not there."),
        ("Traceback:\n  File x\nValueError: two: parts", "ValueError: two: parts"),
        ("Waiting for 1 replica", "Waiting for 1 replica"),
        ("", "Serve gives no reason"),
    ],
)
def test_the_reason_of_a_dead_replica_is_the_last_line_of_its_traceback(message: str, reason: str) -> None:
    assert reason_of(message) == reason


def test_the_state_of_applications_is_read_from_serves_own_document() -> None:
    spec = _spec(3)
    replicas = [{"state": "RUNNING"}, {"state": "STARTING"}]
    ours = {"ModelServer": {"message": "m", "deployment_config": {"user_config": spec.model_dump(mode="json")}, "replicas": replicas}}
    details = {
        "applications": {"mnist": {"status": "RUNNING", "deployments": ours}, "other": {"status": "RUNNING", "message": "x", "deployments": {}}}
    }
    apps = parse_apps(details)
    assert (apps["mnist"].spec, apps["mnist"].num_running, apps["mnist"].message) == (spec, 1, "m")
    assert (apps["other"].spec, apps["other"].message) == (None, "x")
