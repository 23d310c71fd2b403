"""Jobs against a dashboard that a thread of this test plays."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foundry_ray.config import Settings, load_config
from foundry_ray.errors import ClusterDenied, ClusterError, ClusterUnreachable, ConfigError
from foundry_ray.runtime import jobs
from foundry_ray.runtime.dashboard import Dashboard
from foundry_ray.testing.clock import FakeClock


class FakeDashboard:
    """Answers with what the test has put into `answers`, and keeps what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.hostname = socket.gethostname()
        self.asked: list[tuple[str, str, bytes]] = []
        self.answers: dict[str, list[tuple[int, object]]] = {}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        self.asked.append((method, path, body))
        if path.startswith("/nodes"):
            return 200, {"data": {"hostNameList": [self.hostname]}}
        queue = self.answers.get(f"{method} {path}", [(404, "not found")])
        return queue.pop(0) if len(queue) > 1 else queue[0]


@pytest.fixture
def dashboard() -> Iterator[FakeDashboard]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = fake.answer(self.command, self.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer.encode() if isinstance(answer, str) else json.dumps(answer).encode())

        do_GET = do_POST = do_PUT = _reply

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake = FakeDashboard(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield fake
        server.shutdown()


@pytest.fixture
def send(tmp_path: Path, settings: Settings, dashboard: FakeDashboard) -> Callable[..., jobs.Job]:
    path = tmp_path / "p.yaml"
    path.write_text("name: tiny\ndata: {source: digits}\n")
    details = {"submission_id": "key", "status": "RUNNING", "entrypoint": "x"}
    dashboard.answers["GET /api/jobs/key"] = [(404, "no"), (200, details)]
    dashboard.answers["POST /api/jobs/"] = [(200, {"submission_id": "key"})]

    def submit(store: str = "s3://bucket/prefix") -> jobs.Job:
        for name in ("PUT", "GET"):
            dashboard.answers.setdefault(f"{name} /api/packages", [(200, "")])
        return jobs.submit(path, load_config(path), address=dashboard.url, settings=settings, store=store, clock=FakeClock(), job_id="key")

    original = dashboard.answer
    dashboard.answer = lambda method, path, body: (200, "") if "/api/packages/" in path else original(method, path, body)  # type: ignore[method-assign]
    return submit


def _submission(dashboard: FakeDashboard) -> dict[str, object]:
    return next(json.loads(body) for method, path, body in dashboard.asked if (method, path) == ("POST", "/api/jobs/"))


def test_a_job_on_this_machine_gets_the_same_home(send: Callable[..., jobs.Job], dashboard: FakeDashboard, settings: Settings) -> None:
    assert send("embedded").status == "RUNNING"
    request = _submission(dashboard)
    assert request["runtime_env"]["env_vars"]["FOUNDRY_HOME"] == str(settings.home)  # type: ignore[index]
    assert str(request["entrypoint"]).endswith("-m foundry_ray.cli run pipeline.yaml --store embedded")


def test_a_tunnel_to_another_machine_is_found_out(send: Callable[..., jobs.Job], dashboard: FakeDashboard) -> None:
    dashboard.hostname = "foundry-head-x2v9"
    with pytest.raises(ConfigError, match="The store is embedded, which only this machine has") as caught:
        send("embedded")
    assert "s3://bucket/prefix" in caught.value.hint
    with pytest.raises(ConfigError, match="The store is file:///data"):
        send("file:///data")


def test_a_job_elsewhere_gets_neither_our_home_nor_our_python(send: Callable[..., jobs.Job], dashboard: FakeDashboard, settings: Settings) -> None:
    dashboard.hostname = "foundry-head-x2v9"
    send()
    request = _submission(dashboard)
    assert str(request["entrypoint"]).startswith("python -m foundry_ray.cli run ")
    assert str(settings.home) not in json.dumps(request)
    assert request["metadata"] == {"pipeline": "tiny"}


def test_no_credential_of_the_environment_travels(send: Callable[..., jobs.Job], dashboard: FakeDashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    send()
    assert not any(b"hunter2" in body for _, _, body in dashboard.asked)


def test_a_job_that_exists_is_not_submitted_again(send: Callable[..., jobs.Job], dashboard: FakeDashboard) -> None:
    dashboard.answers["GET /api/jobs/key"] = [(200, {"submission_id": "key", "status": "SUCCEEDED", "driver_exit_code": 0})]
    assert send().exit_code == 0
    assert not [path for method, path, _ in dashboard.asked if method == "POST"]


def test_following_logs_gives_each_piece_once_and_ends_with_the_job(dashboard: FakeDashboard, settings: Settings) -> None:
    states = [(200, {"submission_id": "j", "status": status}) for status in ("RUNNING", "RUNNING", "RUNNING", "SUCCEEDED")]
    dashboard.answers["GET /api/jobs/j"] = states
    dashboard.answers["GET /api/jobs/j/logs"] = [(200, {"logs": text}) for text in ("one\n", "one\n", "one\ntwo\n")]
    assert list(jobs.logs("j", address=dashboard.url, settings=settings, follow=True, clock=FakeClock())) == ["one\n", "two\n"]


def test_a_cluster_that_breaks_is_quoted(dashboard: FakeDashboard, settings: Settings) -> None:
    dashboard.answers["GET /api/jobs/"] = [(500, "Traceback\n  File\nRuntimeError: agent gone")]
    with pytest.raises(ClusterError, match="with HTTP 500: RuntimeError: agent gone"):
        jobs.list_jobs(address=dashboard.url, settings=settings)
    dashboard.answers["GET /api/jobs/"] = [(403, "Forbidden")]
    with pytest.raises(ClusterDenied, match=r"refuses .* \(HTTP 403\)"):
        jobs.list_jobs(address=dashboard.url, settings=settings)


def test_a_silent_dashboard_is_given_up_after_its_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ClusterUnreachable, match=r"No cluster answers at .*: no answer within 0 s"):
            Dashboard(url=url, timeout_s=0.1).get("/api/version")


@pytest.mark.parametrize("address", ["head:8265", "ftp://head", "http://user:hunter2@head:8265"])
def test_an_address_that_is_no_dashboard_is_refused_without_secrets(address: str, settings: Settings) -> None:
    with pytest.raises(ConfigError, match="wanted the URL of a dashboard") as caught:
        jobs.list_jobs(address=address, settings=settings)
    assert "hunter2" not in str(caught.value)


def test_jobs_of_a_local_head_that_does_not_run_are_unreachable(settings: Settings) -> None:
    with pytest.raises(ClusterUnreachable, match="The local Ray head does not run") as caught:
        jobs.list_jobs(address="local", settings=settings)
    assert caught.value.hint == "`foundry cluster up` starts it."
