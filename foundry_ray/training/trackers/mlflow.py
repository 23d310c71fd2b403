"""An MLflow run per training: parameters once, metrics by step and by epoch.

The run carries the stage key as a tag. A training that goes on finds it by that tag and adds what the run does not have; one that is made
again after it had come to its end gets a new run. Who may write is the tracking URI's and MLflow's own affair (MLFLOW_TRACKING_TOKEN, ...).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from foundry_ray.training.trackers.lane import Axis, Point

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = ["Mlflow"]

T = TypeVar("T")
_TAG = "foundry.stage_key"
_PARAMS_AT_ONCE = 100  # MLflow's own limits
_METRICS_AT_ONCE = 1000
_PARAM_LETTERS = 6000
_AXES: tuple[Axis, ...] = ("steps", "epochs")


class Mlflow:
    """Keeps points in a run of an MLflow server. Needs `mlflow` or `mlflow-skinny`."""

    name = "MLflow"

    def __init__(self, uri: str, *, experiment: str, run_name: str, stage_key: str, params: Mapping[str, str]) -> None:
        self._uri = uri
        self._experiment = experiment
        self._run_name = run_name
        self._stage_key = stage_key
        self._params = params
        self._run_id: str | None = None
        self._last: Mapping[Axis, int] = {}

    def write(self, points: Sequence[Point]) -> None:
        """The first time, also find or make the run."""
        from mlflow.entities import Metric

        run_id = self._run_id or self._open()
        new = [point for point in points if point.index > self._last.get(point.axis, -1)]
        metrics = [
            Metric(f"{point.axis}/{name}", value, int(point.time_s * 1000), point.index) for point in new for name, value in point.values.items()
        ]
        for some in _chunks(metrics, _METRICS_AT_ONCE):
            self._client.log_batch(run_id, metrics=some)

    def close(self, *, is_good: bool) -> None:
        """End the run: FINISHED, or FAILED, which the next attempt goes on with."""
        if self._run_id is not None:
            self._client.set_terminated(self._run_id, "FINISHED" if is_good else "FAILED")

    @cached_property
    def _client(self) -> MlflowClient:
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=str(self._uri))

    def _open(self) -> str:
        experiment = self._client.get_experiment_by_name(self._experiment)
        experiment_id = experiment.experiment_id if experiment is not None else self._client.create_experiment(self._experiment)
        run = self._unfinished(experiment_id)
        if run is None:
            run = self._client.create_run(experiment_id, run_name=self._run_name, tags={_TAG: self._stage_key})
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._describe(run)
        self._last = self._last_written(run)
        self._run_id = str(run.info.run_id)
        return self._run_id

    def _unfinished(self, experiment_id: str) -> Run | None:
        mine = f"tags.`{_TAG}` = '{self._stage_key}'"
        found = self._client.search_runs([experiment_id], mine, max_results=1, order_by=["attributes.start_time DESC"])
        return found[0] if found and found[0].info.status != "FINISHED" else None

    def _describe(self, run: Run) -> None:
        """Parameters that the run does not have. What it has stays: another number of workers is no other training."""
        from mlflow.entities import Param

        missing = [Param(name, value[:_PARAM_LETTERS]) for name, value in self._params.items() if name not in run.data.params]
        for some in _chunks(missing, _PARAMS_AT_ONCE):
            self._client.log_batch(run.info.run_id, params=some)

    def _last_written(self, run: Run) -> Mapping[Axis, int]:
        """The last index of each axis that the run has."""
        last: dict[Axis, int] = {}
        for axis in _AXES:
            names = [name for name in run.data.metrics if name.startswith(f"{axis}/")]
            last[axis] = max((metric.step for name in names for metric in self._client.get_metric_history(run.info.run_id, name)), default=-1)
        return last


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
