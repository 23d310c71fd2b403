"""A whole run as a Ray job: submit, list, status, logs, stop, over a cluster's dashboard.

Decides what travels: the pipeline file and the files that it names, the options of the command line, and switches that hold no secret.
Credentials never travel: a job's runtime environment is kept by the cluster and shown in its dashboard, so the cluster must hold its own.
"""

from __future__ import annotations

import shlex
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from foundry_ray.clock import SystemClock
from foundry_ray.config import PipelineConfig, Settings
from foundry_ray.errors import ClusterError, ClusterUnreachable, ConfigError, NoSuchJob, ResourcesUnavailable
from foundry_ray.protocols import Clock
from foundry_ray.runtime import local_head
from foundry_ray.runtime.dashboard import Dashboard
from foundry_ray.runtime.env import portable_env
from foundry_ray.runtime.package import Package, pack
from foundry_ray.runtime.place import LOCAL, checked_token_path
from foundry_ray.secrecy import Secret
from foundry_ray.types import Json

_POLL_S = 0.5
_MAX_POLL_S = 5.0
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 30.0
_NOT_STARTED = ("PENDING",)
_TERMINAL = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How a job stands. `exit_code` is the command's own; None while it runs, and where the cluster knows none."""

    job_id: str
    status: str
    message: str = ""
    exit_code: int | None = None
    entrypoint: str = ""
    started_at_s: float | None = None
    ended_at_s: float | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether it will not change any more."""
        return self.status in _TERMINAL


def submit(
    pipeline: Path,
    config: PipelineConfig,
    *,
    address: str,
    settings: Settings,
    store: str | None = None,
    overrides: Sequence[str] = (),
    scale: str | None = None,
    clock: Clock | None = None,
    job_id: str | None = None,
    entrypoint: str | None = None,
    num_cpus: float = 0,
    start_timeout_s: float = _START_TIMEOUT_S,
) -> Job:
    """Run a pipeline on a cluster, and return once its command has started.

    Args:
        pipeline: The pipeline file.
        config: What it resolved to here, with the overrides.
        address: URL of the dashboard, or `local`.
        settings: Where FOUNDRY_HOME and the token are.
        store: Store to use instead of the pipeline's.
        overrides: `key=value` settings, as on the command line.
        scale: Instead of the pipeline's.
        clock: Time.
        job_id: The idempotency key: a job of this id is returned as it stands instead of being submitted again.
        entrypoint: Command to run instead of `foundry run`.
        num_cpus: CPUs that the command itself reserves.
        start_timeout_s: Longest wait for it to start.

    Raises:
        ConfigError: The store cannot be reached from there, or something that would travel holds credentials.
        ClusterUnreachable: Nobody answers at the address.
        ClusterDenied: The token is refused.
        ResourcesUnavailable: It did not start in time; it is stopped as soon as the cluster can.
    """
    clock = clock or SystemClock()
    package = pack(pipeline, config, store=store, overrides=overrides, scale=scale)
    dashboard = _dashboard(address, settings, clock)
    is_here = _check_store(package, dashboard)
    job_id = job_id or f"foundry-{config.name}-{uuid.uuid4().hex[:8]}"
    known = _find(dashboard, job_id)
    if known is not None:
        return known
    _upload(dashboard, package)
    command = entrypoint or shlex.join([sys.executable if is_here else "python", "-m", "foundry_ray.cli", "run", *package.arguments])
    home = {"FOUNDRY_HOME": str(settings.home)} if is_here else {}
    dashboard.post("/api/jobs/", _request(command, job_id, package, config.name, home, num_cpus))
    return _wait_for_start(dashboard, job_id, clock, start_timeout_s)


def _request(command: str, job_id: str, package: Package, pipeline: str, home: Mapping[str, str], num_cpus: float) -> Json:
    """The body of a submission. The cluster shows all of it to everybody who may look at its dashboard."""
    environment: dict[str, Json] = {**portable_env(), **home, "FOUNDRY_JOB": "1"}
    request: dict[str, Json] = {
        "entrypoint": command,
        "submission_id": job_id,
        "runtime_env": {"working_dir": package.uri, "env_vars": environment},
        "metadata": {"pipeline": pipeline},
    }
    return {**request, "entrypoint_num_cpus": num_cpus} if num_cpus else request


def list_jobs(*, address: str, settings: Settings) -> tuple[Job, ...]:
    """All jobs that the cluster remembers, the youngest first."""
    answer = _dashboard(address, settings).get("/api/jobs/")
    jobs = [_job(details) for details in answer] if isinstance(answer, list) else []
    return tuple(sorted((job for job in jobs if job.job_id), key=lambda job: -(job.started_at_s or 0.0)))


def status(job_id: str, *, address: str, settings: Settings) -> Job:
    """How one job stands. Raises NoSuchJob."""
    return _status(_dashboard(address, settings), job_id)


def logs(job_id: str, *, address: str, settings: Settings, follow: bool = False, clock: Clock | None = None) -> Iterator[str]:
    """What the job has printed, in pieces; with `follow` until it ends.

    The cluster hands out whole logs only, so the pause between two looks grows with what one look costs.
    """
    clock = clock or SystemClock()
    dashboard = _dashboard(address, settings)
    _status(dashboard, job_id)
    return _pieces(dashboard, job_id, follow, clock)


def stop(job_id: str, *, address: str, settings: Settings, clock: Clock | None = None) -> Job:
    """Interrupt a job, as Ctrl-C would, and wait until it has ended; one that has ended stays as it is.

    A job that still waits for resources is stopped by the cluster when it gets them: it comes back as PENDING.
    """
    clock = clock or SystemClock()
    dashboard = _dashboard(address, settings)
    job = _status(dashboard, job_id)
    if job.is_terminal:
        return job
    dashboard.post(f"/api/jobs/{job_id}/stop")
    deadline = clock.monotonic_s() + _STOP_TIMEOUT_S
    while not job.is_terminal and job.status not in _NOT_STARTED and clock.monotonic_s() < deadline:
        clock.sleep(_POLL_S)
        job = _status(dashboard, job_id)
    return job


def auth(address: str, settings: Settings) -> str | None:
    """The token to show at an address: the local head's own, the file that FOUNDRY_TOKEN_PATH names, or the one of Ray's tools."""
    head = local_head.status(settings)
    if head is not None and address in (LOCAL, head.dashboard_url):
        return head.token
    path = checked_token_path(settings) or Path.home() / ".ray" / "auth_token"
    return Secret(path.read_text(encoding="utf-8").strip()) or None if path.is_file() else None


def _dashboard(address: str, settings: Settings, clock: Clock | None = None) -> Dashboard:
    """The dashboard at an address. `local` starts the head only where a clock says that this may take time."""
    if address != LOCAL:
        return Dashboard(url=address.rstrip("/"), token=auth(address.rstrip("/"), settings))
    head = local_head.up(settings, clock) if clock else local_head.status(settings)
    if head is None:
        raise ClusterUnreachable("The local Ray head does not run, so it has no jobs.", hint="`foundry cluster up` starts it.", address=LOCAL)
    return Dashboard(url=head.dashboard_url, token=head.token)


def _check_store(package: Package, dashboard: Dashboard) -> bool:
    """Whether the cluster is this machine. Raises ConfigError where it is not and the store is."""
    is_here = dashboard.is_this_machine()
    if not is_here and not package.store.uri.startswith("s3://"):
        raise ConfigError(
            f"The store is {package.store}, which only this machine has, but the job runs at {dashboard.url}.",
            hint="use a store that both reach: `--store s3://bucket/prefix`.",
        )
    if not is_here and package.local_paths:
        raise ConfigError(
            f"The pipeline names {', '.join(package.local_paths)}, relative to this machine, but the job runs at {dashboard.url}.",
            hint="name a registered data set, or an absolute path that every node has.",
        )
    return is_here


def _upload(dashboard: Dashboard, package: Package) -> None:
    path = f"/api/packages/gcs/{package.name}"
    if not dashboard.exists(path):
        dashboard.put(path, package.content)


def _find(dashboard: Dashboard, job_id: str) -> Job | None:
    try:
        return _status(dashboard, job_id)
    except NoSuchJob:
        return None


def _status(dashboard: Dashboard, job_id: str) -> Job:
    return _job(dashboard.get(f"/api/jobs/{job_id}"))


def _job(details: Json) -> Job:
    if not isinstance(details, dict):
        raise ClusterError(
            f"The cluster describes a job as {details!r}, wanted a mapping.", hint="it runs another version of Ray; `foundry doctor` shows ours."
        )
    exit_code, started, ended = details.get("driver_exit_code"), details.get("start_time"), details.get("end_time")
    return Job(
        job_id=str(details.get("submission_id") or ""),
        status=str(details.get("status")),
        message=str(details.get("message") or ""),
        exit_code=exit_code if isinstance(exit_code, int) else None,
        entrypoint=str(details.get("entrypoint") or ""),
        started_at_s=started / 1000 if isinstance(started, (int, float)) else None,
        ended_at_s=ended / 1000 if isinstance(ended, (int, float)) else None,
    )


def _wait_for_start(dashboard: Dashboard, job_id: str, clock: Clock, timeout_s: float) -> Job:
    deadline = clock.monotonic_s() + timeout_s
    job = _status(dashboard, job_id)
    while job.status in _NOT_STARTED:
        if clock.monotonic_s() > deadline:
            dashboard.post(f"/api/jobs/{job_id}/stop")
            raise ResourcesUnavailable(
                f"Job {job_id} did not start within {timeout_s:.0f} s, and will be stopped should it start later: {job.message}",
                hint="free or add the resources that it waits for, then submit again.",
            )
        clock.sleep(_POLL_S)
        job = _status(dashboard, job_id)
    return job


def _pieces(dashboard: Dashboard, job_id: str, follow: bool, clock: Clock) -> Iterator[str]:
    shown = 0
    while True:
        job = _status(dashboard, job_id)  # before the log: what is printed last must still be seen
        asked_at_s = clock.monotonic_s()
        answer = dashboard.get(f"/api/jobs/{job_id}/logs")
        text = cast(str, answer.get("logs") or "") if isinstance(answer, dict) else ""
        if len(text) > shown:
            yield text[shown:]
            shown = len(text)
        if job.is_terminal or not follow:
            return
        clock.sleep(min(_MAX_POLL_S, max(_POLL_S, 4 * (clock.monotonic_s() - asked_at_s))))
