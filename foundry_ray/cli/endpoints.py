"""Commands on what serves: deploy, endpoints."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from foundry_ray.cli.output import JsonOption, StoreOption, emit, on_interrupt, text
from foundry_ray.cli.pipelines import finish

AppArgument = Annotated[str, typer.Argument(metavar="NAME", help="The endpoint's name.")]
AddressOption = Annotated[str, typer.Option("--address", metavar="ADDR", help="The Ray cluster that serves.")]


def deploy(
    model: Annotated[str, typer.Argument(metavar="MODEL|RUN", help="name@alias or name:version; with --policy or --trial a run.")],
    policy: Annotated[
        str | None, typer.Option("--policy", metavar="POLICY", help="Finish and serve another trial of the run's study, e.g. `best under 5 ms`.")
    ] = None,
    trial: Annotated[int | None, typer.Option("--trial", min=0, metavar="N", help="Finish and serve this trial of the run's study.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="HTTP port; the next free one is taken where it is busy. 8000 if absent.")] = None,
    replicas: Annotated[int | None, typer.Option("--replicas", help="Number of replicas; 1 if absent.")] = None,
    address: Annotated[str | None, typer.Option("--address", metavar="ADDR", help="The Ray cluster that serves.")] = None,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Serve a registered version on Ray Serve, or another trial of a run, which is finished and judged first; it outlives the command."""
    from foundry_ray.config import ServeConfig, validate
    from foundry_ray.context import open_context
    from foundry_ray.endpoints import deploy
    from foundry_ray.reporting.tables import endpoint_line

    given = {name: value for name, value in (("port", port), ("num_replicas", replicas)) if value is not None}
    if policy is not None or trial is not None:
        _deploy_another(model, policy, trial, given, address=address, store=store)
        return
    serve = validate(ServeConfig, {"enabled": True, **given}, where="foundry deploy")
    with open_context(store, cluster=address or "local") as context:
        endpoint = deploy(model, serve, context=context)
    emit(endpoint, lambda: endpoint_line(endpoint))


def _deploy_another(run: str, policy: str | None, trial: int | None, serve: dict[str, int], *, address: str | None, store: str | None) -> None:
    from foundry_ray.context import open_context
    from foundry_ray.errors import ConfigError
    from foundry_ray.studies import deploy_another

    if policy is not None and trial is not None:
        raise ConfigError(f"--policy {policy!r} and --trial {trial} both say which trial.", hint="give one of them.")
    wanted = policy or f"trial {trial}"
    option = f"--trial {trial}" if policy is None else f"--policy {shlex.quote(policy)}"
    on_interrupt(f"foundry deploy {run} {option}" + (f" --store {store}" if store else ""))
    with open_context(store, events=run) as context:
        finish(deploy_another(run, wanted, serve=serve, context=context, cluster=address))


def endpoints_list(address: AddressOption = "local", json_output: JsonOption = False) -> None:
    """List what serves."""
    from foundry_ray.context import open_context
    from foundry_ray.endpoints import running
    from foundry_ray.reporting.lists import endpoints_table

    with open_context(None, cluster=address) as context:
        found = running(context)
    emit(found, lambda: endpoints_table(found))


def endpoints_show(name: AppArgument, address: AddressOption = "local", json_output: JsonOption = False) -> None:
    """Show one endpoint."""
    from foundry_ray.context import open_context
    from foundry_ray.endpoints import find
    from foundry_ray.reporting.tables import endpoint_line

    with open_context(None, cluster=address) as context:
        endpoint = find(name, context)
    emit(endpoint, lambda: endpoint_line(endpoint))


def endpoints_delete(name: AppArgument, address: AddressOption = "local", json_output: JsonOption = False) -> None:
    """Take an endpoint down; the model stays registered."""
    from foundry_ray.context import open_context
    from foundry_ray.endpoints import delete

    with open_context(None, cluster=address) as context:
        endpoint = delete(name, context)
    emit({"deleted": endpoint.app_name}, text(f"Deleted endpoint {endpoint.app_name} ({endpoint.model_version})."))


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("deploy")(deploy)
    endpoints = typer.Typer(help="Endpoints.", no_args_is_help=True)
    endpoints.command("list")(endpoints_list)
    endpoints.command("show")(endpoints_show)
    endpoints.command("delete")(endpoints_delete)
    app.add_typer(endpoints, name="endpoints")
