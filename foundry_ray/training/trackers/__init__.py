"""Where a driver keeps the metrics of a training besides the store: TensorBoard event files always, MLflow where a server is named.

Points are written by one thread per place, so that neither training nor its driver waits for a disk or a server; a place that fails is a
warning, and never the training's failure. Decides what is written once: a step that was told is not told again, and what a resumed training
makes anew replaces what was there. Workers track nothing: their points reach the driver through `progress`.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from foundry_ray.config import Settings
from foundry_ray.protocols import Clock, Reporter
from foundry_ray.runtime.env import apply_for_mlflow
from foundry_ray.training.trackers.lane import Axis, Lane, Point, Tracker
from foundry_ray.training.trackers.mlflow import Mlflow
from foundry_ray.training.trackers.tensorboard import TensorBoard
from foundry_ray.types import Json

__all__ = ["Mlflow", "Point", "TensorBoard", "Tracked", "Tracker", "Trackers", "flat", "open_trackers"]

_CLOSE_S = 10.0
_LEAVE_S = 2.0  # who interrupts a training does not want to wait for a server
_KEY_LETTERS = 12


class Trackers:
    """Several places that get the same points. Safe to call from several threads."""

    def __init__(self, trackers: Iterable[Tracker], *, reporter: Reporter, clock: Clock) -> None:
        self._lanes = tuple(Lane(tracker, warn=reporter.warn) for tracker in trackers)
        self._clock = clock
        self._last: dict[Axis, int] = {}
        self._lock = threading.Lock()

    def put(self, axis: Axis, index: int, values: Mapping[str, float]) -> None:
        """A point for all places; the first index is 1. One at or before the last of its axis was told before, and is left out."""
        with self._lock:
            if index <= self._last.get(axis, 0):
                return
            self._last[axis] = index
            point = Point(axis=axis, index=index, values=dict(values), time_s=self._clock.now_s())
            for lane in self._lanes:
                lane.put(point)

    def close(self, *, is_good: bool, timeout_s: float) -> None:
        """Write what is left, each place within `timeout_s` seconds, and say whether training came to its end."""
        for lane in self._lanes:
            lane.finish(is_good=is_good)
        for lane in self._lanes:
            lane.join(timeout_s)


class Tracked:
    """A Reporter that passes everything on and tracks the numbers: `metrics` by optimizer step, `report` by epoch."""

    def __init__(self, reporter: Reporter, trackers: Trackers) -> None:
        self._reporter = reporter
        self._trackers = trackers

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """An epoch is done."""
        self._reporter.report(step, metrics)
        self._trackers.put("epochs", step, metrics)

    def progress(self, done: float, total: float, note: str = "") -> None:
        """How far it is."""
        self._reporter.progress(done, total, note)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The last second of a running epoch."""
        self._reporter.metrics(step, values)
        self._trackers.put("steps", step, values)

    def warn(self, message: str) -> None:
        """Something was skipped, replaced or doubted."""
        self._reporter.warn(message)


@contextmanager
def open_trackers(
    settings: Settings, *, name: str, stage_key: str, params: Mapping[str, Json], reporter: Reporter, clock: Clock
) -> Iterator[Trackers]:
    """The places that the settings name, for one training. Nothing is opened before the first point.

    TensorBoard: `tensorboard --logdir <FOUNDRY_HOME>/tensorboard`, a folder per training, `<stage key>-<name>`. MLflow: the experiment `name`, a
    run per stage key; a training that goes on goes on with its run.

    Args:
        settings: Say where.
        name: Of the pipeline.
        stage_key: Of the training.
        params: What is trained and how; may be nested.
        reporter: Told once of each place that fails.
        clock: Dates the points.
    """
    opened = Trackers(_named_by(settings, name, stage_key, params, reporter), reporter=reporter, clock=clock)
    is_good = False
    try:
        yield opened
        is_good = True
    finally:
        opened.close(is_good=is_good, timeout_s=_CLOSE_S if is_good else _LEAVE_S)


def _named_by(settings: Settings, name: str, stage_key: str, params: Mapping[str, Json], reporter: Reporter) -> Iterator[Tracker]:
    short, uri = stage_key[:_KEY_LETTERS], settings.mlflow_tracking_uri
    yield TensorBoard(settings.home / "tensorboard" / f"{short}-{name}")
    if uri is not None and _has_mlflow(reporter):
        apply_for_mlflow()
        yield Mlflow(uri, experiment=name, run_name=f"{name}-{short}", stage_key=stage_key, params=flat(params))


def _has_mlflow(reporter: Reporter) -> bool:
    is_there = importlib.util.find_spec("mlflow") is not None
    if not is_there:
        reporter.warn("MLFLOW_TRACKING_URI is set, but MLflow is not installed: nothing is tracked there. Hint: `pip install 'foundry-ray[mlflow]'`.")
    return is_there


def flat(params: Mapping[str, Json], prefix: str = "") -> dict[str, str]:
    """Nested parameters as texts under dotted names: {"train": {"lr": 0.1}} -> {"train.lr": "0.1"}."""
    found: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = str(value)
    return found
