"""A whole pipeline as a Ray job, on a cluster that somebody else started: submit, logs, status, stop, and what must not travel."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundry_ray.testing.clusters import HandStarted, hand_started
from foundry_ray.testing.commands import Commands, Outcome

pytestmark = pytest.mark.slow
SECRET = "the-secret-of-this-user"
SMALL = ("--scale", "smoke", "--set", "gates={accuracy_drop_points: 100}", "--set", "serve.enabled=false")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandStarted]:
    with hand_started(tmp_path_factory.mktemp("cluster"), object_store_bytes=200 << 20) as head:
        yield head


@pytest.fixture(scope="module")
def user(cluster: HandStarted, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """Somebody with the cluster's token and with store credentials of his own in the environment."""
    folder = tmp_path_factory.mktemp("user")
    env = {"FOUNDRY_TOKEN_PATH": str(cluster.token_path), "AWS_ACCESS_KEY_ID": "key-of-this-user", "AWS_SECRET_ACCESS_KEY": SECRET}
    commands = Commands(home=folder / "home", folder=folder, env=env)
    assert commands.run("init", ".").code == 0
    commands.fetch("mnist_5k")
    return commands


@pytest.fixture(scope="module")
def submitted(user: Commands, cluster: HandStarted) -> Outcome:
    arguments = ("pipeline.yaml", "--address", cluster.dashboard_url, *SMALL, "--store", f"file://{user.folder}/store", "--json")
    return user.run("submit", *arguments, timeout_s=500)


def _detached(user: Commands, cluster: HandStarted, *more: str) -> str:
    arguments = ("pipeline.yaml", "--address", cluster.dashboard_url, "--scale", "smoke", *more, "--store", f"file://{user.folder}/other")
    outcome = user.run("submit", *arguments, "--detach", "--json")
    assert outcome.code == 0, outcome.stderr
    return str(json.loads(outcome.stdout)["job_id"])


def _jobs(user: Commands, cluster: HandStarted, *command: str) -> Outcome:
    return user.run("jobs", *command, "--address", cluster.dashboard_url)


@pytest.mark.timeout(600)
def test_a_submitted_pipeline_runs_to_its_end_and_streams_its_logs(user: Commands, submitted: Outcome) -> None:
    assert submitted.code == 0, submitted.stderr[-3000:]
    job = json.loads(submitted.stdout)
    assert (job["status"], job["exit_code"]) == ("SUCCEEDED", 0)
    for stage in ("data", "teacher", "search", "student", "evaluation", "registry"):
        assert f"✓ {stage}" in submitted.stderr
    shown = user.run("runs", "show", "latest", "--store", f"file://{user.folder}/store", "--json").document
    assert isinstance(shown, dict)
    assert shown["status"] == "done"


@pytest.mark.timeout(600)
def test_jobs_are_listed_shown_and_read(user: Commands, cluster: HandStarted, submitted: Outcome) -> None:
    job_id = str(json.loads(submitted.stdout)["job_id"])
    assert f"{job_id}  SUCCEEDED" in _jobs(user, cluster, "list").stdout.replace("   ", "  ")
    assert "SUCCEEDED" in _jobs(user, cluster, "status", job_id).stdout
    assert "✓ evaluation" in _jobs(user, cluster, "logs", job_id).stdout
    unknown = _jobs(user, cluster, "status", "nobodys")
    assert unknown.code == 2
    assert "nobodys" in unknown.stderr


@pytest.mark.timeout(300)
def test_a_running_job_is_stopped_and_its_run_is_interrupted(user: Commands, cluster: HandStarted) -> None:
    job_id = _detached(user, cluster, "--set", "teacher.train.epochs=1000")
    store = ("--store", f"file://{user.folder}/other", "--json")
    deadline = time.monotonic() + 120
    while "teacher" not in _jobs(user, cluster, "logs", job_id).stdout:
        assert time.monotonic() < deadline, _jobs(user, cluster, "logs", job_id).stdout
    stopped = _jobs(user, cluster, "stop", job_id)
    assert (stopped.code, "STOPPED" in stopped.stdout) == (0, True)
    (record,) = json.loads(user.run("runs", "list", *store).stdout)
    assert record["status"] == "interrupted"
    assert "foundry resume" in _jobs(user, cluster, "logs", job_id).stdout


@pytest.mark.timeout(600)
def test_no_secret_travels_with_a_job(user: Commands, cluster: HandStarted, submitted: Outcome) -> None:
    token = cluster.token_path.read_text().strip()
    request = urllib.request.Request(f"{cluster.dashboard_url}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        kept = answer.read().decode()
    assert str(json.loads(submitted.stdout)["job_id"]) in kept
    assert "FOUNDRY_JOB" in kept
    for secret in (SECRET, "key-of-this-user", token, "TOKEN_PATH"):
        assert secret not in kept
        assert secret not in submitted.stderr + submitted.stdout


@pytest.mark.parametrize("store", ["embedded", "file:///tmp/store"])
def test_a_store_that_only_this_machine_has_is_refused_elsewhere(user: Commands, store: str) -> None:
    outcome = user.run("submit", "pipeline.yaml", "--address", "http://192.0.2.1:8265", "--store", store)
    assert outcome.code == 2
    assert f"The store is {store}, which only this machine has" in outcome.stderr
    assert "`--store s3://bucket/prefix`" in outcome.stderr


def test_credentials_in_a_uri_are_refused_and_not_shown(user: Commands, cluster: HandStarted) -> None:
    outcome = user.run("submit", "pipeline.yaml", "--address", cluster.dashboard_url, "--store", f"s3://me:{SECRET}@bucket/prefix")
    assert outcome.code == 2
    assert "a URI with a user in it" in outcome.stderr
    assert SECRET not in outcome.stderr


def test_a_pipeline_that_is_wrong_is_refused_before_it_travels(user: Commands, cluster: HandStarted, tmp_path: Path) -> None:
    before = json.loads(user.run("jobs", "list", "--address", cluster.dashboard_url, "--json").stdout)
    outcome = user.run("submit", "pipeline.yaml", "--address", cluster.dashboard_url, "--set", "teacher.wrokers=2")
    assert (outcome.code, "`teacher.workers`" in outcome.stderr) == (2, True)
    assert json.loads(user.run("jobs", "list", "--address", cluster.dashboard_url, "--json").stdout) == before
