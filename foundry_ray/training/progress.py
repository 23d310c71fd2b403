"""How a driver hears from workers: rank 0 overwrites one small object in the store, and the driver reads it once a second.

It needs no actor, no port and no place in Ray; a lost update is replaced by the next one. A thread writes, so that no step ever waits for
the store; `Beat` is that thread, and whatever else rank 0 does about once a second beside training.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from foundry_ray.artifacts.manifests import get_json, put_json
from foundry_ray.errors import StoreError
from foundry_ray.protocols import ArtifactStore, Reporter
from foundry_ray.types import FORMAT_VERSION, from_json, to_json

_BEAT_S = 1.0
_POINTS = 30
"""Points kept in the object, about one a second: a driver that looks away for so long misses none."""
_EPOCHS = 60
"""Epochs kept in the object; the checkpoints have all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Metrics of a moment inside an epoch, after `step` optimizer steps."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What rank 0 last said.

    Attributes:
        attempt: The worker group, so that words of a dead one are not taken for new.
        curve: The last epochs, of which the first is `first_epoch` (from 1).
        points: The last moments inside epochs.
        nodes: Where the ranks run, by Ray's ids.
        phases: Seconds from `fit` to the first step, by what they went into; empty before it.
        first_step: Steps done when it began: those of the checkpoint that it went on from.
    """

    attempt: str
    done: float = 0.0
    total: float = 0.0
    note: str = ""
    warnings: tuple[str, ...] = ()
    first_epoch: int = 1
    curve: tuple[Mapping[str, float], ...] = ()
    points: tuple[Point, ...] = ()
    nodes: tuple[str, ...] = ()
    phases: Mapping[str, float] = field(default_factory=dict)
    first_step: int = 0
    format_version: int = FORMAT_VERSION


class StoreReporter:
    """A Reporter whose words lie in the store once `tick` was called. Ranks other than 0 get one without a key, which keeps silent."""

    def __init__(self, store: ArtifactStore, key: str | None, *, attempt: str) -> None:
        self._store = store
        self._key = key
        self._attempt = attempt
        self._lock = threading.Lock()
        self._bar = (0.0, 0.0, "")
        self._warnings: list[str] = []
        self._curve: tuple[Mapping[str, float], ...] = ()
        self._points: deque[Point] = deque(maxlen=_POINTS)
        self._nodes: tuple[str, ...] = ()
        self._phases: Mapping[str, float] = {}
        self._first_step = 0
        self._is_new = False

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """An epoch is done; the first is 1."""
        with self._lock:
            self._curve = (*self._curve[: step - 1], dict(metrics))
            self._is_new = True

    def epochs(self, curve: Sequence[Mapping[str, float]]) -> None:
        """All epochs so far."""
        with self._lock:
            self._curve = tuple(curve)
            self._is_new = True

    def progress(self, done: float, total: float, note: str = "") -> None:
        """How far it is."""
        with self._lock:
            self._bar = (done, total, note)
            self._is_new = True

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """What the last second was like."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        with self._lock:
            self._points.append(Point(step=step, values=finite))
            self._is_new = True

    def warn(self, message: str) -> None:
        """Something was skipped, replaced or doubted."""
        with self._lock:
            self._warnings.append(message)
            self._is_new = True

    def placed(self, nodes: Sequence[str]) -> None:
        """Where the ranks run."""
        with self._lock:
            self._nodes = tuple(nodes)
            self._is_new = True

    def started(self, first_step: int, phases: Mapping[str, float]) -> None:
        """A step is done, the first after so many; and what the seconds before it went into."""
        with self._lock:
            self._first_step, self._phases = first_step, dict(phases)
            self._is_new = True

    def tick(self) -> None:
        """Write what is new. Training must not end because a courtesy was not heard, so a store that does not answer is left alone."""
        with self._lock:
            if self._key is None or not self._is_new:
                return
            self._is_new = False
            said = self._said()
        try:
            put_json(self._store, self._key, to_json(said))
        except StoreError:
            self._is_new = True

    def _said(self) -> Progress:
        done, total, note = self._bar
        return Progress(
            attempt=self._attempt,
            done=done,
            total=total,
            note=note,
            warnings=tuple(self._warnings),
            first_epoch=max(0, len(self._curve) - _EPOCHS) + 1,
            curve=self._curve[-_EPOCHS:],
            points=tuple(self._points),
            nodes=self._nodes,
            phases=self._phases,
            first_step=self._first_step,
        )


class Beat:
    """A thread that does something about once a second, and once more when it is closed. A context manager.

    Args:
        actions: Called one after another; they raise nothing.
    """

    def __init__(self, *actions: Callable[[], None], name: str) -> None:
        self._actions = actions
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Beat:
        self._thread.start()
        return self

    def __exit__(self, *of_error: object) -> None:
        self._is_over.set()
        self._thread.join(timeout=30 * _BEAT_S)

    def _run(self) -> None:
        while not self._is_over.wait(_BEAT_S):
            self._act()
        self._act()

    def _act(self) -> None:
        for action in self._actions:
            action()


class Listener:
    """Passes on to the driver's reporter what is new in the store.

    Attributes:
        nodes: Where the attempt last listened to runs, as far as it has said.
        has_started: Whether it has done a step.
    """

    def __init__(self, store: ArtifactStore, key: str, reporter: Reporter, *, num_known: int) -> None:
        self.nodes: tuple[str, ...] = ()
        self.has_started = False
        self._store = store
        self._key = key
        self._reporter = reporter
        self._num_told = num_known
        self._num_warned: dict[str, int] = {}
        self._started: set[str] = set()
        self._last_step = 0

    def listen(self, attempt: str) -> None:
        """Read once, and tell what the attempt said since."""
        said = self._read(attempt)
        self.nodes, self.has_started = (said.nodes, bool(said.phases)) if said else ((), False)
        if said is None:
            return
        for message in said.warnings[self._num_warned.get(attempt, 0) :]:
            self._reporter.warn(message)
        self._num_warned[attempt] = len(said.warnings)
        if said.phases and attempt not in self._started:
            self._started.add(attempt)
            self._reporter.metrics(said.first_step, start_metrics(said.phases))
        self.tell(said.curve, first_epoch=said.first_epoch)
        self._point(said.points)
        if said.total:
            self._reporter.progress(said.done, said.total, said.note)

    def tell(self, curve: Sequence[Mapping[str, float]], *, first_epoch: int = 1) -> None:
        """Report the epochs of a curve that were not told yet; where some before them are missing, the last checkpoint will tell them all."""
        if first_epoch > self._num_told + 1:
            return
        for epoch, metrics in enumerate(curve, first_epoch):
            if epoch > self._num_told:
                self._reporter.report(epoch, metrics)
                self._num_told = epoch

    def _read(self, attempt: str) -> Progress | None:
        """None where nothing was said yet, or nobody answers: the next look will tell."""
        with suppress(StoreError):
            said = from_json(Progress, get_json(self._store, self._key), what=self._key)
            return said if said.attempt == attempt else None
        return None

    def _point(self, points: Sequence[Point]) -> None:
        """Pass on what is new. After a resume, steps that are made again were told before."""
        for point in points:
            if point.step > self._last_step:
                self._last_step = point.step
                self._reporter.metrics(point.step, point.values)


def start_metrics(phases: Mapping[str, float]) -> dict[str, float]:
    """What a Reporter hears of a start: `start_<phase>_s` for each phase, and `start_s`, their sum: from `fit` to the first step."""
    return {f"start_{name}_s": seconds for name, seconds in phases.items()} | {"start_s": sum(phases.values())}
