"""How a driver hears from workers: rank 0 overwrites one small object in the store, and the driver reads it once a second.

It needs no actor, no port and no place in Ray; a lost update is replaced by the next one. The same way back, a driver that leaves
(Ctrl-C in a session that stays) asks its workers to stop.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from foundry_ray.artifacts.manifests import get_json, put_json
from foundry_ray.errors import Preempted, StoreError
from foundry_ray.protocols import ArtifactStore, Clock, Reporter
from foundry_ray.types import FORMAT_VERSION, from_json, to_json

_WRITE_EVERY_S = 1.0
_POINTS = 30
"""Points kept in the object, about one a second: a driver that looks away for so long misses none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Metrics of a moment inside an epoch, after `step` optimizer steps."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What rank 0 last said. `attempt` names the worker group, so that words of a dead one are not taken for new."""

    attempt: str
    done: float = 0.0
    total: float = 0.0
    note: str = ""
    warnings: tuple[str, ...] = ()
    curve: tuple[Mapping[str, float], ...] = ()
    points: tuple[Point, ...] = ()
    format_version: int = FORMAT_VERSION


class StoreReporter:
    """A Reporter whose words lie in the store. Ranks other than 0 get one without a key, which keeps silent."""

    def __init__(self, store: ArtifactStore, key: str | None, *, attempt: str, clock: Clock) -> None:
        self._store = store
        self._key = key
        self._clock = clock
        self._attempt = attempt
        self._bar = (0.0, 0.0, "")
        self._warnings: list[str] = []
        self._curve: tuple[Mapping[str, float], ...] = ()
        self._points: deque[Point] = deque(maxlen=_POINTS)
        self._next_s = -math.inf

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """An epoch is done: told at once."""
        self._curve = (*self._curve[: step - 1], metrics)
        self._write()

    def epochs(self, curve: Sequence[Mapping[str, float]]) -> None:
        """All epochs so far: told at once."""
        self._curve = tuple(curve)
        self._write()

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Told at most once a second. Raises Preempted where the driver has asked for a stop."""
        self._bar = (done, total, note)
        if self._key is not None and self._clock.monotonic_s() >= self._next_s:
            self._write()
            self._stop_if_asked(_stop_key(self._key, self._attempt))

    def _stop_if_asked(self, key: str) -> None:
        try:
            is_asked = self._store.stat(key) is not None
        except StoreError:
            return  # nobody answers: the next look will tell
        if is_asked:
            self._store.delete(key)
            raise Preempted("the driver has left, so its workers stop.", hint="run the same command: it goes on from the last checkpoint.")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Told with the next progress."""
        self._points.append(Point(step=step, values={name: value for name, value in values.items() if math.isfinite(value)}))

    def warn(self, message: str) -> None:
        """Told at once."""
        self._warnings.append(message)
        self._write()

    def _write(self) -> None:
        if self._key is None:
            return
        self._next_s = self._clock.monotonic_s() + _WRITE_EVERY_S
        done, total, note = self._bar
        said = Progress(attempt=self._attempt, done=done, total=total, note=note, warnings=tuple(self._warnings), curve=self._curve)
        said = replace(said, points=tuple(self._points))
        try:
            put_json(self._store, self._key, to_json(said))
        except StoreError:
            return  # training must not end because a courtesy was not heard; checkpoints meet the same store and do raise


class Listener:
    """Passes on to the driver's reporter what is new in the store."""

    def __init__(self, store: ArtifactStore, key: str, reporter: Reporter, *, num_known: int) -> None:
        self._store = store
        self._key = key
        self._reporter = reporter
        self._num_told = num_known
        self._num_warned: dict[str, int] = {}
        self._last_step = 0

    def listen(self, attempt: str) -> None:
        """Read once, and tell what the attempt said since."""
        try:
            said = from_json(Progress, get_json(self._store, self._key), what=self._key)
        except StoreError:
            return  # nothing said yet, or nobody answers: the next look will tell
        if said.attempt != attempt:
            return
        for message in said.warnings[self._num_warned.get(attempt, 0) :]:
            self._reporter.warn(message)
        self._num_warned[attempt] = len(said.warnings)
        self.tell(said.curve)
        self._point(said.points)
        if said.total:
            self._reporter.progress(said.done, said.total, said.note)

    def _point(self, points: Sequence[Point]) -> None:
        """Pass on what is new. After a resume, steps that are made again were told before."""
        for point in points:
            if point.step > self._last_step:
                self._last_step = point.step
                self._reporter.metrics(point.step, point.values)

    def stop(self, attempt: str) -> None:
        """Ask the attempt's workers to stop, which they do within about a second. Where nobody hears it, they end with the session."""
        with suppress(StoreError):
            put_json(self._store, _stop_key(self._key, attempt), attempt)

    def tell(self, curve: Sequence[Mapping[str, float]]) -> None:
        """Report the epochs of a curve that were not told yet; the first epoch is 1."""
        for epoch in range(self._num_told + 1, len(curve) + 1):
            self._reporter.report(epoch, curve[epoch - 1])
        self._num_told = max(self._num_told, len(curve))


def _stop_key(progress_key: str, attempt: str) -> str:
    return f"{progress_key.rpartition('/')[0]}/stop-{attempt}.json"
