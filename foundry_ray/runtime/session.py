"""The Ray session of this process: connect, does it fit?, run one function over there and watch it, close.

Decides: how a cluster is joined quietly and within a time limit, and how progress, errors and deaths of a remote call come back.
Leaves to others: which cluster is meant (`place`), and everything that Ray Train, Tune and Serve do in the session.
"""

from __future__ import annotations

import importlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from foundry_ray.clock import SystemClock
from foundry_ray.config import LimitsConfig, Settings
from foundry_ray.errors import ClusterUnreachable, ResourcesUnavailable
from foundry_ray.protocols import Clock, Reporter
from foundry_ray.runtime import local_head
from foundry_ray.runtime.env import apply_to_driver, portable_env
from foundry_ray.runtime.head_watch import HeadWatch
from foundry_ray.runtime.place import AUTO, LOCAL, Place, locate
from foundry_ray.runtime.probe import probe
from foundry_ray.runtime.remote_call import watch

T = TypeVar("T")
_LOCAL_SILENCE_S = 6.0
"""A head of our own is not restarted by anybody else."""


def connect(
    cluster: str, *, settings: Settings, limits: LimitsConfig, reporter: Reporter, clock: Clock | None = None, libraries: Sequence[str] = ()
) -> Session:
    """Join the cluster that `cluster:` names, and start the local head where that is what it names and none runs.

    A process that is connected already keeps its connection, which closing the session then leaves open.

    Args:
        cluster: As in a pipeline.
        settings: Say where FOUNDRY_HOME is.
        limits: Hold the longest wait.
        reporter: Warned of what is ignored.
        clock: The system's where absent.
        libraries: Modules that will be needed: imported while the local head comes up.

    Raises:
        ClusterUnreachable: Nobody answers within `limits.connect_timeout_s`.
        ClusterDenied: The cluster refuses the token.
        ConfigError: `cluster` is none of local, auto, host:port or a cluster file.
    """
    clock = clock or SystemClock()
    place = locate(cluster, settings, reporter)
    if _is_connected():
        return Session(reporter=reporter, is_owner=False, started_head=False)
    if place.address == LOCAL:
        return _connect_local(place, settings, limits, reporter, clock, libraries)
    return _connect_to(place, limits, reporter, clock)


class Session:
    """A connected process. Use it as a context manager, or call `close`.

    Attributes:
        started_head: Whether `connect` had to start the local head. It outlives the session; `local_head.down` ends it.
    """

    def __init__(self, *, reporter: Reporter, is_owner: bool, started_head: bool, watch: HeadWatch | None = None) -> None:
        self._reporter = reporter
        self._is_owner = is_owner
        self._watch = watch
        self.started_head = started_head

    @property
    def lost(self) -> ClusterUnreachable | None:
        """Why this session is over, where its head is gone: the main thread has been interrupted for it. Else None."""
        return self._watch.lost if self._watch is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster. Closing twice is no error."""
        import ray

        if self._is_owner and ray.is_initialized():
            ray.shutdown()
        if self._watch is not None:
            self._watch.stop()

    def resources(self) -> dict[str, float]:
        """What all nodes offer together: CPU, GPU (counts), memory and object_store_memory (bytes), and custom resources."""
        import ray

        return {name: amount for name, amount in _asked(ray.cluster_resources).items() if not name.startswith("node:")}

    def nodes(self) -> dict[str, Mapping[str, float]]:
        """What each living node offers, by its id; not those that are to be taken away."""
        import ray

        leaving = self.draining()
        return {node["NodeID"]: node["Resources"] for node in _asked(ray.nodes) if node["Alive"] and node["NodeID"] not in leaving}

    def free(self) -> dict[str, Mapping[str, float]]:
        """What nobody uses now on each living node, by its id; not those that are to be taken away."""
        from ray._private.state import state  # the public call adds the nodes up

        leaving = self.draining()
        return {node: resources for node, resources in _asked(state.available_resources_per_node).items() if node not in leaving}

    def draining(self) -> frozenset[str]:
        """Ids of the nodes that are to be taken away: a cloud's notice, an autoscaler, `ray drain-node`, SIGTERM to a node."""
        from ray._private.state import state  # what Ray Train's own watcher asks; no public call says it from outside of a worker

        return frozenset(_asked(state.get_draining_nodes) or {})

    def is_here(self) -> bool:
        """Whether all nodes are this machine, so that they see its files and its loopback."""
        import ray

        alive = [node for node in ray.nodes() if node["Alive"]]
        return all(node["NodeManagerAddress"] == "127.0.0.1" or node["NodeManagerHostname"] == socket.gethostname() for node in alive)

    def require(self, requested: Mapping[str, float], what: str) -> None:
        """Check that so much exists at all, on this cluster or on what its autoscaler may grow to.

        Args:
            requested: Amounts by resource name, such as {"CPU": 4}.
            what: Whose wish it is, as a user knows it: a key of the pipeline.

        Raises:
            ResourcesUnavailable: It can never be met.
        """
        offered = {**self.resources(), **_largest()}
        missing = {name: amount for name, amount in requested.items() if amount > offered.get(name, 0.0)}
        if missing:
            wanted = ", ".join(f"{amount:g} {name}" for name, amount in missing.items())
            found = ", ".join(f"{offered.get(name, 0.0):g} {name}" for name in missing)
            raise ResourcesUnavailable(
                f"{what} needs {wanted}, but the cluster has {found}.",
                hint=f"lower {what}, or name a larger cluster with `cluster:` or `foundry submit --address`.",
                requested=dict(requested),
                available={name: offered.get(name, 0.0) for name in requested},
            )

    def call(self, fn: Callable[..., T], *args: object, num_cpus: float = 1, num_gpus: float = 0, reporter: Reporter, **kwargs: object) -> T:
        """Run `fn(*args, reporter=..., **kwargs)` in a worker and show here what it reports there.

        `reporter` is where it is shown; `fn` gets a stand-in. An interrupt here ends the call there. `num_cpus` are as many as are welcome: a
        cluster of smaller nodes gives what one of them has.

        Raises:
            FoundryError: The one that `fn` raised.
            WorkerGroupFailed: The worker died.
            ResourcesUnavailable: No node can ever run it.
        """
        import ray

        num_cpus = on_one_node([node["Resources"] for node in ray.nodes() if node["Alive"]], num_cpus=num_cpus, num_gpus=num_gpus)
        self.require({"CPU": num_cpus, "GPU": num_gpus}, f"{fn.__name__}")
        return watch(fn, args, kwargs, num_cpus=num_cpus, num_gpus=num_gpus, reporter=reporter)


def on_one_node(nodes: Sequence[Mapping[str, float]], *, num_cpus: float, num_gpus: float) -> float:
    """The wished CPUs, or as many as the largest node (with so many GPUs) has; unchanged where there is no such node yet. Pure."""
    most = max((node.get("CPU", 0.0) for node in nodes if node.get("GPU", 0.0) >= num_gpus), default=0.0)
    return min(num_cpus, most) if most >= 1 else num_cpus


def _connect_local(place: Place, settings: Settings, limits: LimitsConfig, reporter: Reporter, clock: Clock, libraries: Sequence[str]) -> Session:
    was_running = local_head.status(settings) is not None
    if was_running and place.options != local_head.HeadOptions():
        reporter.warn("The local head runs already: the sizes in the cluster file are ignored until `foundry cluster down`.")
    apply_to_driver(token_path=local_head.token_path(settings), is_loopback=True)  # before the import, which reads it
    loading = threading.Thread(target=_load, args=(("ray", *libraries),), daemon=True)
    loading.start()  # takes about as long as the head needs to open its first port, and then to bring its node up
    head = local_head.up(settings, clock, limits.connect_timeout_s, options=place.options, is_complete=False)
    loading.join(limits.connect_timeout_s)
    watch = _init(head.address, node_ip="127.0.0.1", silence_s=min(limits.head_silence_s, _LOCAL_SILENCE_S))
    return Session(reporter=reporter, is_owner=True, started_head=not was_running, watch=watch)


def _load(modules: Sequence[str]) -> None:
    for name in modules:
        importlib.import_module(name)


def _connect_to(place: Place, limits: LimitsConfig, reporter: Reporter, clock: Clock) -> Session:
    if place.is_inside_job:
        apply_to_driver()  # the cluster gave this process its token and its workers their environment
        watch = _init(place.address, silence_s=limits.head_silence_s)
        return Session(reporter=reporter, is_owner=True, started_head=False, watch=watch)
    address = _found_here() if place.address == AUTO else place.address
    probe(address, place.token_path or _default_token(), clock, limits.connect_timeout_s)
    apply_to_driver(token_path=place.token_path or _default_token(), is_loopback=False)
    watch = _init(address, worker_env=portable_env(), silence_s=limits.head_silence_s)
    return Session(reporter=reporter, is_owner=True, started_head=False, watch=watch)


def _init(address: str, *, silence_s: float, node_ip: str | None = None, worker_env: Mapping[str, str] | None = None) -> HeadWatch | None:
    """Join, and watch the head from now on; not where another thread than the main one joins, which nobody could interrupt."""
    import ray
    from ray.exceptions import RayError

    options: dict[str, object] = {"_node_ip_address": node_ip} if node_ip else {}
    if worker_env:
        options["runtime_env"] = {"env_vars": dict(worker_env)}
    with _own_signals():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, TimeoutError, RayError) as error:
            raise ClusterUnreachable(
                f"Ray could not join the cluster at {address}: {str(error).strip().splitlines()[0]}",
                hint="the cluster and this machine need the same versions of Ray and Python; `foundry doctor` shows ours.",
                address=address,
            ) from error
    if threading.current_thread() is not threading.main_thread():
        return None
    watch = HeadWatch(ray.get_runtime_context().gcs_address, silence_s=silence_s)
    watch.start()
    return watch


def _asked(question: Callable[[], T]) -> T:
    """What the head answers. In a thread of its own: Ray waits for a head that is gone where no signal reaches the main thread."""
    answer: Future[T] = Future()

    def ask() -> None:
        try:
            answer.set_result(question())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="ask-head", daemon=True).start()
    return answer.result()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's answer to SIGTERM: Ray installs its own, which saves nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _found_here() -> str:
    """The address of a head that somebody started on this machine."""
    from ray._private.utils import read_ray_address

    address = read_ray_address()
    if not address:
        raise ClusterUnreachable(
            "cluster is auto, but no Ray head was started on this machine.", hint="set `cluster: local`, or host:port of a head.", address=AUTO
        )
    return str(address)


def _default_token() -> Path | None:
    """Where Ray's own tools keep a token."""
    path = Path.home() / ".ray" / "auth_token"
    return path if path.is_file() else None


def _largest() -> Mapping[str, float]:
    """What the cluster may grow to, where it has an autoscaler that says so."""
    from ray._private.state import state

    return state.get_max_resources_from_cluster_config() or {}
