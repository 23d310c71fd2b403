"""From a registered version to answers over HTTP: deploy it, and ask it about images whose labels are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from foundry_ray.config import ServeConfig
from foundry_ray.context import Context
from foundry_ray.errors import ArtifactNotFound, ReplicaUnhealthy, ServingError
from foundry_ray.types import DatasetRef, Endpoint, EvaluationReport, Json, RegistryEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request: what was asked for, what came back, and how long it took on the wire."""

    row: int
    label: str
    answer: str
    latency_ms: float


def deploy_entry(entry: RegistryEntry, serve: ServeConfig, *, context: Context) -> Endpoint:
    """Bring a version up on Ray Serve, or bring the endpoint to it. What serves stays until the new one is healthy."""
    from foundry_ray import serving

    return serving.deploy(
        entry,
        serve,
        limits=context.limits,
        store=context.store,
        store_config=context.store_config,
        settings=context.settings,
        session=context.session,
        clock=context.clock,
        reporter=context.reporter,
    )


def deploy(model: str, serve: ServeConfig, *, context: Context) -> Endpoint:
    """Deploy `name@alias` or `name:version`. The deployment outlives the command."""
    from foundry_ray import registry

    endpoint = deploy_entry(registry.resolve(context.store, model), serve, context=context)
    context.keep()  # only now: where nothing serves, nothing needs to stay
    return endpoint


def running(context: Context) -> tuple[Endpoint, ...]:
    """All endpoints of the context's cluster; none where no local head runs."""
    from foundry_ray import serving
    from foundry_ray.runtime import local_head

    if context.cluster == "local" and local_head.status(context.settings) is None:
        return ()
    return serving.endpoints(context.session)


def find(name: str, context: Context) -> Endpoint:
    """One endpoint by its name. Raises ArtifactNotFound."""
    found = running(context)
    for endpoint in found:
        if endpoint.app_name == name:
            return endpoint
    names = ", ".join(endpoint.app_name for endpoint in found) or "none"
    raise ArtifactNotFound(f"There is no endpoint {name!r}; running: {names}.", hint="`foundry deploy NAME@champion` starts one.", key=name)


def delete(name: str, context: Context) -> Endpoint:
    """Take an endpoint down. Raises ArtifactNotFound."""
    from foundry_ray import serving

    endpoint = find(name, context)
    serving.delete(name, context.session)
    return endpoint


def ask(endpoint: Endpoint, report: EvaluationReport, dataset: DatasetRef, *, num_requests: int, context: Context) -> tuple[Answer, ...]:
    """Send test images one by one and hold the answers against the labels. None, with a warning, where the endpoint is out of reach from here.

    Raises:
        ReplicaUnhealthy: The endpoint answers worse than its own evaluation by more than chance allows: it serves something else.
    """
    from foundry_ray import data
    from foundry_ray.serving import client

    split = data.open_test(dataset, store=context.store, frozen_sha256=report.student.model_sha256, clock=context.clock)
    classes = dataset.schema.classes
    answers = []
    num_requests = min(num_requests, len(split.labels_N))
    for row in range(num_requests):
        began_s = context.clock.monotonic_s()
        try:
            reply = client.query(endpoint.url, split.images_NCHW[row : row + 1])
        except ServingError as error:
            if not _is_out_of_reach(error, context):
                raise
            context.reporter.warn(f"{endpoint.url} is on the loopback of the cluster's head, out of reach from here: it was asked nothing.")
            return ()
        elapsed_ms = 1000 * (context.clock.monotonic_s() - began_s)
        answers.append(Answer(row=row, label=classes[int(split.labels_N[row])], answer=str(reply.labels[0]), latency_ms=elapsed_ms))
        context.reporter.progress(row + 1, num_requests, f"label {answers[-1].label}, answer {answers[-1].answer}, {elapsed_ms:.1f} ms")
    num_right = sum(answer.label == answer.answer for answer in answers)
    context.reporter.answers([(answer.label, answer.answer, answer.latency_ms) for answer in answers])
    wanted = _fewest_right(report.student.metrics["accuracy"].ci_low, len(answers))
    if num_right < wanted:
        raise ReplicaUnhealthy(
            f"{endpoint.url} gave {num_right} right answers of {len(answers)}, wanted {wanted} or more after what the model did on test.",
            hint="`foundry endpoints show` prints the version that serves.",
            app_name=endpoint.app_name,
            reason="wrong answers",
        )
    return tuple(answers)


def _is_out_of_reach(error: ServingError, context: Context) -> bool:
    return isinstance(error.__cause__, ConnectionRefusedError | TimeoutError) and not context.session.is_here()


def _fewest_right(accuracy: float, num_answers: int) -> int:
    """Four standard deviations below what a model of this accuracy gives: fewer are no accident."""
    return max(0, math.floor(num_answers * accuracy - 4 * math.sqrt(num_answers * accuracy * (1 - accuracy))))


def predict(model: str, source: Path, *, context: Context) -> tuple[Json, ...]:
    """Batch inference from the store, without a server.

    Args:
        model: `name@alias` or `name:version`.
        source: An image, a folder of images, or a .npy file of uint8 images (N, C, H, W).

    Raises:
        SignatureInvalid: A key to check with is set, and the version is not signed by it.
    """
    from foundry_ray import inference, registry

    entry = registry.resolve(context.store, model)
    registry.check_entry(context.store, entry)
    return tuple(inference.predict_files(context.store, entry.model, source))
