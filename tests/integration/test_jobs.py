"""Runs as jobs on a cluster that was started by hand: `ray start --head`, token auth, not foundry's own head."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundry_ray.config import PipelineConfig, Settings, load_config
from foundry_ray.errors import ClusterDenied, ClusterUnreachable, ConfigError, NoSuchJob, ResourcesUnavailable
from foundry_ray.runtime import jobs, ports
from foundry_ray.testing.clusters import hand_started


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Settings]]:
    """The dashboard's URL, and settings that know its token."""
    folder = tmp_path_factory.mktemp("cluster")
    with hand_started(folder) as head:
        yield head.dashboard_url, Settings(home=folder / "home", token_path=head.token_path)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text("name: tiny\ndata: {source: digits}\n")
    return path


def _submit(pipeline: Path, cluster: tuple[str, Settings], code: str, **options: object) -> jobs.Job:
    url, settings = cluster
    entrypoint = shlex.join([sys.executable, "-c", code])
    return jobs.submit(pipeline, load_config(pipeline), address=url, settings=settings, entrypoint=entrypoint, **options)  # type: ignore[arg-type]


def test_a_job_streams_its_logs_and_brings_back_its_exit_code(pipeline: Path, cluster: tuple[str, Settings]) -> None:
    url, settings = cluster
    code = "import os, sys; print(open('pipeline.yaml').read(), os.environ['FOUNDRY_JOB'], os.environ['FOUNDRY_HOME']); sys.exit(3)"
    job = _submit(pipeline, cluster, code)
    text = "".join(jobs.logs(job.job_id, address=url, settings=settings, follow=True))
    assert "source: digits" in text
    assert f"1 {settings.home}" in text
    done = jobs.status(job.job_id, address=url, settings=settings)
    assert (done.status, done.exit_code, done.is_terminal) == ("FAILED", 3, True)
    assert job.job_id in {listed.job_id for listed in jobs.list_jobs(address=url, settings=settings)}


def test_a_submission_id_runs_once(pipeline: Path, cluster: tuple[str, Settings]) -> None:
    first = _submit(pipeline, cluster, "print('once')", job_id="same-key")
    second = _submit(pipeline, cluster, "raise SystemExit(9)", job_id="same-key")
    assert second.entrypoint == first.entrypoint
    assert "once" in "".join(jobs.logs("same-key", address=cluster[0], settings=cluster[1], follow=True))


def test_a_running_job_can_be_stopped(pipeline: Path, cluster: tuple[str, Settings]) -> None:
    job = _submit(pipeline, cluster, "import time; time.sleep(600)")
    stopped = jobs.stop(job.job_id, address=cluster[0], settings=cluster[1])
    assert stopped.status == "STOPPED"
    assert jobs.stop(job.job_id, address=cluster[0], settings=cluster[1]).status == "STOPPED"


def test_a_job_that_cannot_start_says_why(pipeline: Path, cluster: tuple[str, Settings]) -> None:
    with pytest.raises(ResourcesUnavailable, match=r"did not start within 4 s, .*resources") as caught:
        _submit(pipeline, cluster, "pass", num_cpus=64, job_id="too-large", start_timeout_s=4)
    assert caught.value.exit_code == 2
    assert jobs.stop("too-large", address=cluster[0], settings=cluster[1]).status == "PENDING"


def test_a_driver_inside_a_job_joins_the_cluster_it_runs_on(pipeline: Path, cluster: tuple[str, Settings]) -> None:
    root = Path(__file__).parents[2]
    code = f"""
import sys; sys.path.insert(0, {str(root)!r})
from foundry_ray.config import LimitsConfig, settings
from foundry_ray.runtime.session import connect
from foundry_ray.testing.reporters import RecordingReporter
with connect("local", settings=settings(), limits=LimitsConfig(), reporter=RecordingReporter()) as session:
    print("cpus", session.resources()["CPU"], session.started_head)
"""
    job = _submit(pipeline, cluster, code)
    text = "".join(jobs.logs(job.job_id, address=cluster[0], settings=cluster[1], follow=True))
    assert "cpus 2.0 False" in text


def test_a_wrong_token_and_a_missing_one_are_denied(cluster: tuple[str, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    with pytest.raises(ClusterDenied, match=r"refuses its token \(HTTP 403\)") as caught:
        jobs.list_jobs(address=cluster[0], settings=Settings(home=tmp_path, token_path=wrong))
    assert caught.value.exit_code == 4
    with pytest.raises(ClusterDenied, match=r"refuses no token \(HTTP 401\)"):
        jobs.list_jobs(address=cluster[0], settings=Settings(home=tmp_path))


def test_an_unknown_job_is_named(cluster: tuple[str, Settings]) -> None:
    with pytest.raises(NoSuchJob, match="has no jobs/nope") as caught:
        jobs.status("nope", address=cluster[0], settings=cluster[1])
    assert caught.value.exit_code == 2


def test_an_address_where_nobody_listens_is_unreachable(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{ports.free_port(tmp_path)}"
    with pytest.raises(ClusterUnreachable, match=f"No cluster answers at {url}") as caught:
        jobs.list_jobs(address=url, settings=Settings(home=tmp_path))
    assert caught.value.exit_code == 4


def test_credentials_do_not_travel(pipeline: Path, cluster: tuple[str, Settings]) -> None:
    config: PipelineConfig = load_config(pipeline)
    with pytest.raises(ConfigError, match="the command line holds a URI with a user in it"):
        jobs.submit(pipeline, config, address=cluster[0], settings=cluster[1], store="s3://KEY:SECRET@bucket/prefix")
