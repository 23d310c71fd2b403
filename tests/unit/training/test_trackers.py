"""TensorBoard files read back, an MLflow store with real runs, and places that do not answer."""

from __future__ import annotations

import importlib.util
import json
import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from foundry_ray.config import Settings
from foundry_ray.secrecy import Secret
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.trackers import Mlflow, Point, TensorBoard, Tracked, Trackers, flat, open_trackers

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

needs_mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow-skinny is not installed")


def point(index: int, *, axis: str = "steps", **values: float) -> Point:
    return Point(axis=axis, index=index, values=values, time_s=1e9 + index)


class _List:
    """A place in memory. `gate` holds it up while it is closed."""

    name = "List"

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.gate = threading.Event()
        self.gate.set()
        self.num_failures = 0
        self.is_good: bool | None = None

    def write(self, points: Sequence[Point]) -> None:
        assert self.gate.wait(10)
        if self.num_failures:
            self.num_failures -= 1
            raise OSError("http://me:hunter2@there/api does not answer")
        self.points.extend(points)

    def close(self, *, is_good: bool) -> None:
        self.is_good = is_good


@pytest.fixture
def place() -> Iterator[_List]:
    made = _List()
    yield made
    made.gate.set()


def _scalars(folder: Path) -> list[tuple[str, int, float]]:
    """What TensorBoard shows of a folder: all points of its files in order, without those that a later session made anew."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown: list[tuple[str, int, float]] = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                shown = [one for one in shown if one[1] < event.step]
            shown += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return shown


def test_steps_and_epochs_are_in_the_event_files(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "run")
    board.write([point(10, loss=0.5, lr=0.25), point(20, loss=0.25), point(1, axis="epochs", val_loss=2.0)])
    board.close(is_good=True)
    assert _scalars(tmp_path / "run" / "steps") == [("steps/loss", 10, 0.5), ("steps/lr", 10, 0.25), ("steps/loss", 20, 0.25)]
    assert _scalars(tmp_path / "run" / "epochs") == [("epochs/val_loss", 1, 2.0)]


def test_event_files_show_points_before_they_are_closed(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.write([point(1, loss=1.0)])
    assert _scalars(tmp_path / "steps") == [("steps/loss", 1, 1.0)]
    board.close(is_good=True)


def test_a_resumed_training_doubles_no_point_in_the_event_files(tmp_path: Path) -> None:
    for first, last in ((1, 6), (4, 8)):  # killed after step 5, goes on after the checkpoint of step 3
        board = TensorBoard(tmp_path)
        board.write([Point(axis="steps", index=step, values={"loss": step}, time_s=1e9 + 100 * first + step) for step in range(first, last)])
        board.close(is_good=True)
    assert len(list((tmp_path / "steps").iterdir())) == 2
    assert [step for _, step, _ in _scalars(tmp_path / "steps")] == [1, 2, 3, 4, 5, 6, 7]


def test_every_report_is_passed_on_and_each_number_tracked_once(place: _List, reporter: RecordingReporter, clock: FakeClock) -> None:
    trackers = Trackers([place], reporter=reporter, clock=clock)
    tracked = Tracked(reporter, trackers)
    tracked.progress(1, 2, "epoch 1/2")
    for step in (0, 5, 9, 9, 6, 12):  # 0: what is told of a start before its first step
        tracked.metrics(step, {"loss": 1.0})
    tracked.report(1, {"val_loss": 2.0})
    tracked.warn("beware")
    trackers.close(is_good=True, timeout_s=10)
    assert [(one.axis, one.index) for one in place.points] == [("steps", 5), ("steps", 9), ("steps", 12), ("epochs", 1)]
    assert place.points[0].time_s == clock.now_s()
    assert (reporter.progresses, reporter.reports, reporter.warnings) == ([(1, 2, "epoch 1/2")], [(1, {"val_loss": 2.0})], ["beware"])
    assert [step for step, _ in reporter.points] == [0, 5, 9, 9, 6, 12]


def test_training_does_not_wait_for_a_place_that_does_not_answer(place: _List, reporter: RecordingReporter, clock: FakeClock) -> None:
    place.gate.clear()
    trackers = Trackers([place], reporter=reporter, clock=clock)
    began_s = time.monotonic()
    for step in range(1, 1001):
        trackers.put("steps", step, {"loss": 1.0})
    trackers.close(is_good=True, timeout_s=0.05)
    assert time.monotonic() - began_s < 5
    assert reporter.warnings == ["List did not take the last metrics within 0.05 s: they are missing there. The model is not affected."]


def test_a_place_that_comes_back_gets_all_points_and_failed_with_one_warning(place: _List, reporter: RecordingReporter, clock: FakeClock) -> None:
    place.num_failures = 2
    trackers = Trackers([place], reporter=reporter, clock=clock)
    for step in range(1, 201):
        trackers.put("steps", step, {"loss": 1.0})
        _wait_for(lambda step=step: place.num_failures <= max(0, 2 - step))
    trackers.close(is_good=True, timeout_s=10)
    assert [one.index for one in place.points] == list(range(1, 201))
    assert len(reporter.warnings) == 1
    assert "List does not take metrics: OSError: http://there/api does not answer. Training goes on" in reporter.warnings[0]


def test_points_that_never_arrived_are_counted(place: _List, reporter: RecordingReporter, clock: FakeClock) -> None:
    place.num_failures = 1000
    trackers = Trackers([place], reporter=reporter, clock=clock)
    for step in range(1, 4):
        trackers.put("steps", step, {"loss": 1.0})
    trackers.close(is_good=False, timeout_s=10)
    assert reporter.warnings[1] == "The last metrics did not reach List: 3 are missing there. The model is not affected."
    assert place.is_good is False


def test_a_training_gets_a_folder_of_its_own_and_is_ended_as_failed_when_it_fails(
    tmp_path: Path, reporter: RecordingReporter, clock: FakeClock
) -> None:
    settings = Settings(home=tmp_path)
    with open_trackers(settings, name="mnist", stage_key="0123456789abcdef", params={}, reporter=reporter, clock=clock) as trackers:
        assert list(tmp_path.iterdir()) == []  # a training that is reused leaves nothing behind
        trackers.put("steps", 3, {"loss": 0.5})
    assert _scalars(tmp_path / "tensorboard" / "0123456789ab-mnist" / "steps") == [("steps/loss", 3, 0.5)]
    assert reporter.warnings == []


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, reporter: RecordingReporter, clock: FakeClock) -> None:
    (tmp_path / "tensorboard").write_text("a file is in the way")
    with open_trackers(Settings(home=tmp_path), name="mnist", stage_key="k", params={}, reporter=reporter, clock=clock) as trackers:
        trackers.put("steps", 1, {"loss": 0.5})
    assert reporter.warnings[0].startswith("TensorBoard does not take metrics: ")


def test_a_tracking_uri_without_mlflow_is_a_warning(
    tmp_path: Path, reporter: RecordingReporter, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    settings = Settings(home=tmp_path, mlflow_tracking_uri=Secret("http://there"))
    with open_trackers(settings, name="mnist", stage_key="k", params={}, reporter=reporter, clock=clock):
        assert reporter.warnings[0].startswith("MLFLOW_TRACKING_URI is set, but MLflow is not installed")


def test_nested_parameters_get_dotted_names() -> None:
    assert flat({"train": {"lr": 0.1, "deep": {"on": True}}, "workers": 2}) == {"train.lr": "0.1", "train.deep.on": "True", "workers": "2"}


@pytest.fixture
def mlflow_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlruns").as_uri()


def _track(uri: str, *batches: Sequence[Point], is_good: bool = True) -> tuple[MlflowClient, list[Run]]:
    from mlflow.tracking import MlflowClient

    place = Mlflow(uri, experiment="mnist", run_name="mnist-abc", stage_key="abc", params={"train.lr": "0.1"})
    for batch in batches:
        place.write(batch)
    place.close(is_good=is_good)
    client = MlflowClient(tracking_uri=uri)
    return client, client.search_runs([client.get_experiment_by_name("mnist").experiment_id])


def _history(client: MlflowClient, run: Run, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name))


@needs_mlflow
def test_an_mlflow_run_has_the_parameters_once_and_the_metrics_by_step(mlflow_uri: str) -> None:
    client, runs = _track(mlflow_uri, [point(10, loss=0.5), point(1, axis="epochs", val_loss=2.0)], [point(20, loss=math.nan)])
    assert len(runs) == 1
    assert (runs[0].info.run_name, runs[0].info.status, runs[0].data.params) == ("mnist-abc", "FINISHED", {"train.lr": "0.1"})
    assert [step for step, _ in _history(client, runs[0], "steps/loss")] == [10, 20]
    assert _history(client, runs[0], "epochs/val_loss") == [(1, 2.0)]


@needs_mlflow
def test_a_resumed_training_goes_on_with_its_mlflow_run_and_doubles_no_point(mlflow_uri: str) -> None:
    _track(mlflow_uri, [point(step, loss=step) for step in range(1, 6)], is_good=False)
    client, runs = _track(mlflow_uri, [point(step, loss=step) for step in range(4, 8)])
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert _history(client, runs[0], "steps/loss") == [(step, step) for step in range(1, 8)]


@needs_mlflow
def test_a_training_made_again_after_its_end_is_another_mlflow_run(mlflow_uri: str) -> None:
    _track(mlflow_uri, [point(1, loss=1.0)])
    assert len(_track(mlflow_uri, [point(1, loss=1.0)])[1]) == 2


class _Server(BaseHTTPRequestHandler):
    """Says yes to every request of MLflow's REST interface, and remembers it."""

    heard: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.heard.append((self.path.partition("?")[0].removeprefix("/api/2.0/mlflow/"), json.loads(body or b"{}")))
        info = {"run_id": "r", "run_uuid": "r", "experiment_id": "1", "run_name": "mnist-k", "status": "RUNNING", "lifecycle_stage": "active"}
        experiment = {"experiment_id": "1", "name": "mnist", "lifecycle_stage": "active"}
        answer = json.dumps({"experiment": experiment, "run": {"info": info, "data": {}}, "run_info": info}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST

    def log_message(self, *args: object) -> None:
        del args


@pytest.fixture
def server() -> Iterator[str]:
    _Server.heard.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://me:hunter2@127.0.0.1:{serving.server_port}"
        serving.shutdown()


@needs_mlflow
def test_an_mlflow_server_hears_of_a_training_and_stdout_stays_the_results(
    tmp_path: Path, server: str, reporter: RecordingReporter, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(home=tmp_path, mlflow_tracking_uri=Secret(server))
    with open_trackers(settings, name="mnist", stage_key="k", params={"train": {"lr": 0.1}}, reporter=reporter, clock=clock) as trackers:
        trackers.put("steps", 7, {"loss": 0.5})
    batches = [body for path, body in _Server.heard if path == "runs/log-batch"]
    assert [(param["key"], param["value"]) for body in batches for param in body.get("params", ())] == [("train.lr", "0.1")]
    assert [(one["key"], one["value"], one["step"]) for body in batches for one in body.get("metrics", ())] == [("steps/loss", 0.5, 7)]
    assert [body["status"] for path, body in _Server.heard if path == "runs/update"] == ["FINISHED"]
    assert (capsys.readouterr().out, reporter.warnings) == ("", [])


@needs_mlflow
def test_a_dead_mlflow_server_is_one_warning_that_names_no_password(
    tmp_path: Path, reporter: RecordingReporter, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    settings = Settings(home=tmp_path, mlflow_tracking_uri=Secret(f"http://me:hunter2@127.0.0.1:{port}"))
    with open_trackers(settings, name="mnist", stage_key="k", params={}, reporter=reporter, clock=clock) as trackers:
        trackers.put("steps", 1, {"loss": 0.5})
    assert reporter.warnings[0].startswith("MLflow does not take metrics: MlflowException: API request to http://127.0.0.1:")
    assert reporter.warnings[1:] == ["The last metrics did not reach MLflow: 1 are missing there. The model is not affected."]
    assert "hunter2" not in "".join(reporter.warnings)


@needs_mlflow
def test_a_silent_mlflow_server_holds_nobody_up(reporter: RecordingReporter, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = Mlflow(f"http://127.0.0.1:{silent.getsockname()[1]}", experiment="mnist", run_name="r", stage_key="k", params={})
        trackers = Trackers([place], reporter=reporter, clock=clock)
        trackers.put("steps", 1, {"loss": 0.5})
        began_s = time.monotonic()
        trackers.close(is_good=False, timeout_s=0.2)
        assert time.monotonic() - began_s < 3
    assert reporter.warnings[0].startswith("MLflow did not take the last metrics within 0.2 s")


def _wait_for(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.001)
