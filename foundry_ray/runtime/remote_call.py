"""One function in one worker, watched from here: its reports as they happen, its result or its error at the end.

The worker runs the function in a thread and yields what it says; the driver reads that stream. Nothing else is started for it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from foundry_ray.errors import ClusterUnreachable, FoundryError, WorkerGroupFailed
from foundry_ray.protocols import Reporter

if TYPE_CHECKING:
    from ray import ObjectRefGenerator

T = TypeVar("T")
_PATIENCE_S = 15.0
_MIN_PROGRESS_GAP_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    kind: Literal["started", "report", "progress", "metrics", "warn", "result", "error"]
    payload: object = None


class _StreamReporter:
    """The stand-in that the function reports to. Progress is thinned out: a stream item costs about a millisecond."""

    def __init__(self, events: queue.SimpleQueue[_Event]) -> None:
        self._events = events
        self._last_s = 0.0

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        self._events.put(_Event(kind="report", payload=(step, dict(metrics))))

    def progress(self, done: float, total: float, note: str = "") -> None:
        now_s = time.monotonic()
        if done >= total or now_s - self._last_s >= _MIN_PROGRESS_GAP_S:
            self._last_s = now_s
            self._events.put(_Event(kind="progress", payload=(done, total, note)))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._events.put(_Event(kind="metrics", payload=(step, dict(values))))

    def warn(self, message: str) -> None:
        self._events.put(_Event(kind="warn", payload=message))


def watch(fn: Callable[..., T], args: tuple[object, ...], kwargs: Mapping[str, object], *, num_cpus: float, num_gpus: float, reporter: Reporter) -> T:
    """Run `fn` in a worker; see `Session.call`."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    task = ray.remote(_stream).options(num_cpus=num_cpus, num_gpus=num_gpus, num_returns="streaming", max_retries=0, name=fn.__name__)
    stream = task.remote(fn, args, dict(kwargs))
    try:
        return cast(T, _follow(stream, reporter, f"{num_cpus:g} CPU, {num_gpus:g} GPU"))
    except RayTaskError:
        raise  # a bug in the function, with the traceback of the worker
    except RayError as error:
        raise _death(fn.__name__, error) from error
    except BaseException:
        ray.cancel(stream, force=True)
        raise


def _follow(stream: ObjectRefGenerator, reporter: Reporter, wanted: str) -> object:
    import ray

    ready, _ = ray.wait([stream], timeout=_PATIENCE_S, fetch_local=False)
    if not ready:
        free = ray.available_resources()
        reporter.warn(f"Waiting for {wanted}: {free.get('CPU', 0.0):g} CPU and {free.get('GPU', 0.0):g} GPU are free, others hold the rest.")
    for reference in stream:
        event: _Event = ray.get(reference)
        if event.kind == "result":
            return event.payload
        if event.kind == "error":
            raise cast(FoundryError, event.payload)
        _show(event, reporter)
    raise WorkerGroupFailed("The worker ended without a result.", hint="run the command again.", failures={0: "no result"})


def _show(event: _Event, reporter: Reporter) -> None:
    if event.kind == "report":
        step, metrics = cast("tuple[int, Mapping[str, float]]", event.payload)
        reporter.report(step, metrics)
    elif event.kind == "progress":
        done, total, note = cast("tuple[float, float, str]", event.payload)
        reporter.progress(done, total, note)
    elif event.kind == "metrics":
        step, values = cast("tuple[int, Mapping[str, float]]", event.payload)
        reporter.metrics(step, values)
    elif event.kind == "warn":
        reporter.warn(cast(str, event.payload))


def _death(name: str, error: Exception) -> FoundryError:
    from ray.exceptions import LocalRayletDiedError, RaySystemError

    reason = " ".join(str(error).split())[:500]
    if isinstance(error, (LocalRayletDiedError, RaySystemError)):
        return ClusterUnreachable(f"The cluster went away while {name} ran: {reason}", hint="run the command again; finished work is kept.")
    return WorkerGroupFailed(f"The worker of {name} died: {reason}", hint="run the command again; finished work is kept.", failures={0: reason})


def _stream(fn: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> Iterator[_Event]:
    """Runs in the worker."""
    events: queue.SimpleQueue[_Event | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            events.put(_Event(kind="result", payload=fn(*args, reporter=_StreamReporter(cast("queue.SimpleQueue[_Event]", events)), **kwargs)))
        except FoundryError as error:
            events.put(_Event(kind="error", payload=error))
        except BaseException as error:  # the border of the thread: it is raised again in the task's own
            events.put(error)

    yield _Event(kind="started")
    threading.Thread(target=run, name=fn.__name__, daemon=True).start()
    while True:
        event = events.get()
        if isinstance(event, BaseException):
            raise event
        yield event
        if event.kind in ("result", "error"):
            return
