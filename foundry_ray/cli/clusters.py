"""Commands on where it runs: submit, jobs, cluster, doctor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from foundry_ray.cli.output import JsonOption, StoreOption, emit, on_interrupt, text
from foundry_ray.cli.pipelines import PipelineArgument, ScaleOption, SetOption

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job id.")]
UrlOption = Annotated[str, typer.Option("--address", metavar="URL", help="The cluster's dashboard, http://host:8265, or `local`.")]
_JOB_FAILED = 5


def submit(
    pipeline: PipelineArgument,
    address: Annotated[str, typer.Option("--address", metavar="URL", help="The cluster's dashboard, http://host:8265, or `local`.")],
    scale: ScaleOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the job is accepted.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Run a pipeline as a Ray job on a cluster, and stream its logs."""
    from foundry_ray.clock import SystemClock
    from foundry_ray.config import load_config, settings
    from foundry_ray.context import keep_services
    from foundry_ray.planning import check
    from foundry_ray.runtime import jobs

    config = load_config(pipeline, set_ or (), scale=scale)
    check(config)
    if address == "local":
        keep_services(settings())
    job = jobs.submit(
        pipeline,
        config,
        overrides=tuple(set_ or ()),
        scale=scale,
        store=store,
        address=address,
        settings=settings(),
        clock=SystemClock(),
    )
    if not detach:
        on_interrupt(f"foundry jobs logs {job.job_id} --follow --address {address}")
        for chunk in jobs.logs(job.job_id, address=address, settings=settings(), follow=True):
            sys.stderr.write(chunk)
        job = jobs.status(job.job_id, address=address, settings=settings())
    emit(job, text(f"{job.job_id}  {job.status}  {job.message}"))
    if job.is_terminal and job.status != "SUCCEEDED":
        # The cluster knows no code of a job that never started, and a negative one of a job that a signal ended.
        raise typer.Exit(job.exit_code if job.exit_code and job.exit_code > 0 else _JOB_FAILED)


def jobs_list(address: UrlOption = "local", json_output: JsonOption = False) -> None:
    """List the jobs of a cluster."""
    from foundry_ray.config import settings
    from foundry_ray.reporting.tables import simple
    from foundry_ray.runtime import jobs

    found = jobs.list_jobs(address=address, settings=settings())
    emit(found, lambda: simple("", ("job", "status", "message"), [(job.job_id, job.status, job.message) for job in found]))


def jobs_status(job: JobArgument, address: UrlOption = "local", json_output: JsonOption = False) -> None:
    """Show how a job stands."""
    from foundry_ray.config import settings
    from foundry_ray.runtime import jobs

    found = jobs.status(job, address=address, settings=settings())
    emit(found, text(f"{found.job_id}  {found.status}  {found.message}"))


def jobs_logs(
    job: JobArgument,
    address: UrlOption = "local",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Print a job's logs."""
    from foundry_ray.config import settings
    from foundry_ray.runtime import jobs

    chunks = jobs.logs(job, address=address, settings=settings(), follow=follow)
    if json_output:
        emit({"job_id": job, "logs": "".join(chunks)}, text(""))
        return
    for chunk in chunks:
        sys.stdout.write(chunk)


def jobs_stop(job: JobArgument, address: UrlOption = "local", json_output: JsonOption = False) -> None:
    """Stop a job; what it saved stays."""
    from foundry_ray.config import settings
    from foundry_ray.runtime import jobs

    found = jobs.stop(job, address=address, settings=settings())
    emit(found, text(f"{found.job_id}  {found.status}"))


def cluster_up(json_output: JsonOption = False) -> None:
    """Start the local Ray head; it runs until `foundry cluster down`."""
    from foundry_ray.clock import SystemClock
    from foundry_ray.config import settings
    from foundry_ray.context import keep_services
    from foundry_ray.runtime import local_head

    state = local_head.up(settings(), SystemClock())
    keep_services(settings())
    emit(state.public(), text(f"Ray head at {state.address}, dashboard {state.dashboard_url}"))


def cluster_down(json_output: JsonOption = False) -> None:
    """Stop the local Ray head and what it serves."""
    from foundry_ray.config import settings
    from foundry_ray.context import stop_services

    stopped = stop_services(settings(), store=False)
    emit(stopped, text("Stopped the local Ray head." if stopped["head"] else "The local Ray head was not running."))


def cluster_status(json_output: JsonOption = False) -> None:
    """Say whether the local Ray head runs, and where."""
    from foundry_ray.config import settings
    from foundry_ray.runtime import local_head

    state = local_head.status(settings())
    shown = (
        f"running at {state.address}, dashboard {state.dashboard_url}, pid {state.pid}" if state else "not running; `foundry cluster up` starts it"
    )
    emit({"running": state is not None, "head": state.public() if state else None}, text(shown))


def doctor(
    pipeline: Annotated[Path | None, typer.Argument(metavar="[PIPELINE]", help="Also check what this pipeline needs.")] = None,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Say what is installed, reachable and missing, with the fix."""
    from foundry_ray.config import settings
    from foundry_ray.doctor import diagnose
    from foundry_ray.reporting.lists import findings_table

    findings = diagnose(settings(), pipeline=pipeline, store=store)
    emit(findings, lambda: findings_table(findings))
    if not all(finding.is_ok or finding.is_optional for finding in findings):
        raise typer.Exit(_JOB_FAILED)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("submit")(submit)
    jobs = typer.Typer(help="Jobs on a cluster.", no_args_is_help=True)
    jobs.command("list")(jobs_list)
    jobs.command("status")(jobs_status)
    jobs.command("logs")(jobs_logs)
    jobs.command("stop")(jobs_stop)
    app.add_typer(jobs, name="jobs")
    cluster = typer.Typer(help="The local Ray head.", no_args_is_help=True)
    cluster.command("up")(cluster_up)
    cluster.command("down")(cluster_down)
    cluster.command("status")(cluster_status)
    app.add_typer(cluster, name="cluster")
    app.command("doctor")(doctor)
