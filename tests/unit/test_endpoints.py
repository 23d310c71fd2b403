"""Asking an endpoint about test images, and what a deployment leaves running."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from foundry_ray import endpoints
from foundry_ray.config import ServeConfig
from foundry_ray.errors import DeployTimeout, ReplicaUnhealthy, ServingError
from foundry_ray.serving import client
from foundry_ray.testing import samples
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.datasets import publish_bands
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import Endpoint, EvaluationReport

ENDPOINT = Endpoint(app_name="mnist", url="http://127.0.0.1:8000/mnist", model_version="1", num_replicas=1)


@pytest.fixture
def context(memory_store: MemoryStore, clock: FakeClock, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(RecordingReporter, "answers", lambda self, rows: None, raising=False)
    kept: list[bool] = []
    session = SimpleNamespace(is_here=lambda: True)
    return SimpleNamespace(store=memory_store, clock=clock, reporter=reporter, session=session, kept=kept, keep=lambda: kept.append(True))


@pytest.fixture
def report() -> EvaluationReport:
    whole = samples.report()
    return replace(whole, student=replace(whole.student, model_sha256="a" * 64))


def _answering(monkeypatch: pytest.MonkeyPatch, answer: str | ServingError) -> None:
    def query(url: str, images: object) -> SimpleNamespace:
        if isinstance(answer, ServingError):
            raise answer
        return SimpleNamespace(labels=(answer,))

    monkeypatch.setattr(client, "query", query)


def _silence(cause: Exception) -> ServingError:
    error = ServingError("it does not answer.")
    error.__cause__ = cause
    return error


def test_no_more_images_are_asked_about_than_there_are(context: SimpleNamespace, report: EvaluationReport, monkeypatch: pytest.MonkeyPatch) -> None:
    _answering(monkeypatch, "top")
    with pytest.raises(ReplicaUnhealthy, match="gave 16 right answers of 48"):
        endpoints.ask(ENDPOINT, report, publish_bands(context.store), num_requests=100, context=context)
    assert context.reporter.progresses[-1][:2] == (48, 48)


def test_an_endpoint_out_of_reach_is_a_warning_on_a_cluster_elsewhere(
    context: SimpleNamespace, report: EvaluationReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answering(monkeypatch, _silence(ConnectionRefusedError()))
    dataset = publish_bands(context.store)
    with pytest.raises(ServingError, match="it does not answer"):
        endpoints.ask(ENDPOINT, report, dataset, num_requests=3, context=context)
    context.session.is_here = lambda: False
    assert endpoints.ask(ENDPOINT, report, dataset, num_requests=3, context=context) == ()
    assert "on the loopback of the cluster's head, out of reach from here" in context.reporter.warnings[0]
    _answering(monkeypatch, _silence(ConnectionResetError()))
    with pytest.raises(ServingError, match="it does not answer"):
        endpoints.ask(ENDPOINT, report, dataset, num_requests=3, context=context)


@pytest.mark.parametrize("error", [None, DeployTimeout("not healthy.")])
def test_services_stay_only_where_something_serves(context: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, error: DeployTimeout | None) -> None:
    def deploy_entry(*args: object, **options: object) -> Endpoint:
        if error is not None:
            raise error
        return ENDPOINT

    monkeypatch.setattr("foundry_ray.registry.resolve", lambda store, model: model)
    monkeypatch.setattr(endpoints, "deploy_entry", deploy_entry)
    if error is None:
        assert endpoints.deploy("mnist", ServeConfig(), context=context) == ENDPOINT
    else:
        with pytest.raises(DeployTimeout):
            endpoints.deploy("mnist", ServeConfig(), context=context)
    assert context.kept == ([] if error else [True])
