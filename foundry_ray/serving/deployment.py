"""Deploys a registered version so that a broken one never replaces a good one.

The order is what keeps the promise: the model is fetched, verified and run here before Serve is touched; Serve starts the new replicas
beside the old ones and stops those only when the new ones are healthy; a few probes decide whether the new version stays; whatever goes
wrong, Serve is told to want the old version again. What serves outlives the command that deployed it.

Leaves to others: what a replica does (`app`), how Serve is spoken to (`instance`), the verdict (`rollout`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from foundry_ray.config import LimitsConfig, ServeConfig, Settings, StoreConfig, signing_keys
from foundry_ray.errors import DeployTimeout, FoundryError, ReplicaUnhealthy, RolloutRejected, ServingError
from foundry_ray.protocols import ArtifactStore, Clock, Reporter
from foundry_ray.serving.client import Client
from foundry_ray.serving.instance import HOST, AppState, RayServe, ServeInstance, free_port, reason_of
from foundry_ray.serving.rollout import Decision, Verdict, Window, decide
from foundry_ray.serving.servable import Servable, load_servable
from foundry_ray.serving.spec import ReplicaSpec, spec_of
from foundry_ray.types import Endpoint, RegistryEntry

if TYPE_CHECKING:
    import numpy as np

    from foundry_ray.runtime.session import Session

_POLL_S = 0.1
_NUM_PROBES = 20
_NUM_WARM_UP = 3
Probe = Callable[[str, Servable], Window]


def deploy(
    entry: RegistryEntry,
    config: ServeConfig,
    *,
    limits: LimitsConfig,
    store: ArtifactStore,
    store_config: StoreConfig,
    settings: Settings,
    session: Session,
    clock: Clock,
    reporter: Reporter,
) -> Endpoint:
    """Make the application `entry.name` serve this version; does nothing where it does so already.

    Raises:
        ArtifactNotFound, ArtifactCorrupt, SignatureInvalid, BadRecord: The model cannot be served; Serve was not touched.
        ResourcesUnavailable: The replicas do not fit the cluster.
        ReplicaUnhealthy: A replica did not start; the reason is its own.
        DeployTimeout: It was not healthy in time.
        RolloutRejected: It started and does not answer. After each of the last three, what served before still serves.
    """
    if config.cpus_per_replica:
        session.require({"CPU": config.num_replicas * config.cpus_per_replica}, "serve.num_replicas x serve.cpus_per_replica")
    spec = spec_of(entry, config, store=store_config, settings=settings, signed=signing_keys().is_checking)
    rollout = Rollout(RayServe(), clock=clock, reporter=reporter, timeout_s=limits.deploy_timeout_s)
    return rollout.deploy(spec, _check_here(spec, store, reporter), port=config.port, slo_p95_ms=config.slo.p95_ms)


def endpoints(session: Session) -> tuple[Endpoint, ...]:
    """What foundry has deployed on the session's cluster, by name."""
    del session  # it proves that Ray is connected
    serve = RayServe()
    port = serve.port() or 0
    return tuple(_endpoint(app.spec, app, port) for _, app in sorted(serve.apps().items()) if app.spec is not None)


def delete(app_name: str, session: Session) -> None:
    """Stop serving an application. Raises ServingError for a name that is not deployed."""
    names = [endpoint.app_name for endpoint in endpoints(session)]
    if app_name not in names:
        known = ", ".join(names) or "nothing"
        raise ServingError(f"{app_name} is not deployed; deployed is {known}.", hint="`foundry endpoints list` shows what is deployed.")
    RayServe().delete(app_name)


def _check_here(spec: ReplicaSpec, store: ArtifactStore, reporter: Reporter) -> Servable:
    reporter.progress(0, 3, "checking the model")
    servable = load_servable(spec, store)
    if not servable.has_class_names:
        reporter.warn(f"{spec.name}:{spec.version} names no classes; the endpoint answers with label numbers.")
    return servable


class Rollout:
    """One deploy, step by step, against a Serve instance.

    Args:
        serve: The instance.
        timeout_s: Longest wait until all replicas of a version are healthy.
        probe: Sends the requests by which a version is judged; over HTTP where it is not given.
    """

    def __init__(self, serve: ServeInstance, *, clock: Clock, reporter: Reporter, timeout_s: float, probe: Probe | None = None) -> None:
        self._serve = serve
        self._probe = probe or ask_over_http
        self._clock = clock
        self._reporter = reporter
        self._timeout_s = timeout_s

    def deploy(self, spec: ReplicaSpec, servable: Servable, *, port: int, slo_p95_ms: float) -> Endpoint:
        """See `deploy`. `servable` is the same model, which answered here."""
        actual = self._start(port)
        before = self._serve.apps().get(spec.name)
        if before is not None and before.spec is None:
            raise ServingError(f"an application {spec.name} runs on this cluster that is not foundry's.", hint="rename the pipeline (`name:`).")
        is_same = before is not None and before.spec == spec and before.status == "RUNNING"
        decision = self._ask(spec, servable, actual, slo_p95_ms) if is_same else None
        if decision is None or decision.verdict is Verdict.ROLLBACK:
            self._replace(spec, before)
            decision = self._ask(spec, servable, actual, slo_p95_ms)
        self._settle(spec, decision, before)
        self._reporter.progress(3, 3, f"version {spec.version} serves")
        return _endpoint(spec, self._serve.apps()[spec.name], actual)

    def _start(self, wanted: int) -> int:
        running = self._serve.port()
        if running is None:
            running = free_port(wanted)
            self._serve.start(running)
        if wanted not in (0, running):
            self._reporter.warn(f"serve.port is {wanted}, but the endpoint listens on {running}: the port was busy, or Serve runs there already.")
        return running

    def _replace(self, spec: ReplicaSpec, before: AppState | None) -> None:
        self._reporter.progress(1, 3, f"starting version {spec.version}")
        try:
            self._serve.run(spec)
            self._wait(spec)
        except FoundryError as error:
            raise self._undone(error, before, spec) from error

    def _wait(self, spec: ReplicaSpec) -> None:
        deadline_s = self._clock.monotonic_s() + self._timeout_s
        while True:
            app = self._serve.apps().get(spec.name)
            if app is not None and app.spec == spec and app.status == "RUNNING" and app.num_running >= spec.num_replicas:
                return
            if app is not None and app.status == "DEPLOY_FAILED":
                raise _unhealthy(spec, reason_of(app.message))
            if self._clock.monotonic_s() >= deadline_s:
                raise _timeout(spec, app, self._timeout_s)
            self._clock.sleep(_POLL_S)

    def _ask(self, spec: ReplicaSpec, servable: Servable, port: int, slo_p95_ms: float) -> Decision:
        self._reporter.progress(2, 3, "asking the endpoint")
        return decide(self._probe(_url(spec.name, port), servable), slo_p95_ms=slo_p95_ms)

    def _settle(self, spec: ReplicaSpec, decision: Decision, before: AppState | None) -> None:
        if decision.verdict is Verdict.HOLD:
            self._reporter.warn(f"{spec.name}:{spec.version} serves, but {decision.reason}.")
        if decision.verdict is Verdict.ROLLBACK:
            message = f"{spec.name}:{spec.version} started, but {decision.reason}."
            error = RolloutRejected(message, hint="`foundry endpoints list` shows what serves.", reason=decision.reason)
            raise self._undone(error, before, spec)

    def _undone(self, error: FoundryError, before: AppState | None, spec: ReplicaSpec) -> FoundryError:
        """Make Serve want again what it served before; the error with a sentence about what serves now."""
        if before is None or before.spec is None:
            self._serve.delete(spec.name)
            return _with(error, "Nothing was served before, and nothing is now.")
        if before.spec == spec:
            return _with(error, "It was deployed before, and is left as it is.")
        self._serve.run(before.spec)
        try:
            self._wait(before.spec)
        except ServingError as second:
            return _with(error, f"Going back to version {before.spec.version} failed too: {second.message}")
        return _with(error, f"Version {before.spec.version} still serves.")


def ask_over_http(url: str, servable: Servable) -> Window:
    """Ask an endpoint about one image, repeatedly. Another version or other logits than those computed here count as errors.

    Returns an empty window where the address is out of reach: the endpoint listens on the loopback of the cluster's head.
    """
    import numpy as np

    shape = servable.signature.input_shape
    image = np.arange(np.prod(shape), dtype=np.int64).astype(np.uint8).reshape(1, *shape)
    expected = servable.run(image)
    latencies: list[float] = []
    errors = 0
    with Client(url, model=servable.signature.name) as client:
        for number in range(_NUM_WARM_UP + _NUM_PROBES):
            try:
                answer = client.infer(image)
            except ServingError as error:
                if isinstance(error.__cause__, ConnectionRefusedError | TimeoutError):
                    return Window()
                errors += 1
                continue
            if answer.model_version != servable.signature.version or not _agree(answer.logits_NK, expected):
                errors += 1
            elif number >= _NUM_WARM_UP:
                latencies.append(answer.latency_ms)
    return Window(latencies_ms=tuple(latencies), num_errors=errors)


def _agree(got_NK: np.ndarray, expected_NK: np.ndarray) -> bool:
    """Within a tenth of the range of the logits: int8 kernels differ that much between kinds of CPU, other weights differ more."""
    import numpy as np

    return got_NK.shape == expected_NK.shape and bool(np.abs(got_NK - expected_NK).max() <= 0.1 * max(float(np.ptp(expected_NK)), 1e-3))


def _endpoint(spec: ReplicaSpec, app: AppState, port: int) -> Endpoint:
    return Endpoint(app_name=spec.name, url=_url(spec.name, port), model_version=str(spec.version), num_replicas=app.num_running, status=app.status)


def _url(name: str, port: int) -> str:
    return f"http://{HOST}:{port}/{name}"


def _unhealthy(spec: ReplicaSpec, reason: str) -> ReplicaUnhealthy:
    message = f"{spec.name}:{spec.version} did not start: {reason.rstrip('.')}."
    return ReplicaUnhealthy(message, hint="`foundry doctor` checks the store and the cluster.", app_name=spec.name, reason=reason)


def _timeout(spec: ReplicaSpec, app: AppState | None, timeout_s: float) -> DeployTimeout:
    status = app.status if app is not None else "absent"
    last = reason_of(app.message) if app is not None and app.message else "Serve gives no reason"
    return DeployTimeout(
        f"{spec.name}:{spec.version} is {status} after {timeout_s:g} s, wanted RUNNING; the last word of its replicas: {last}.",
        hint="`--set limits.deploy_timeout_s=300` waits longer; `foundry cluster status` shows free resources.",
        app_name=spec.name,
        timeout_s=timeout_s,
    )


def _with(error: FoundryError, sentence: str) -> FoundryError:
    return type(error)(f"{error.message} {sentence}", hint=error.hint, **error.facts)
