"""Commands on what serves: deploy, endpoints."""

from __future__ import annotations

from typing import Annotated

import typer

from foundry_ray.cli.models import ModelArgument
from foundry_ray.cli.output import JsonOption, StoreOption, emit, text

AppArgument = Annotated[str, typer.Argument(metavar="NAME", help="The endpoint's name.")]
AddressOption = Annotated[str, typer.Option("--address", metavar="ADDR", help="The Ray cluster that serves.")]


def deploy(
    model: ModelArgument,
    port: Annotated[int, typer.Option("--port", help="HTTP port; the next free one is taken where it is busy.")] = 8000,
    replicas: Annotated[int, typer.Option("--replicas", help="Number of replicas.")] = 1,
    address: AddressOption = "local",
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Serve a registered version on Ray Serve; it outlives the command."""
    from foundry_ray.config import ServeConfig, validate
    from foundry_ray.context import open_context
    from foundry_ray.endpoints import deploy
    from foundry_ray.reporting.tables import endpoint_line

    serve = validate(ServeConfig, {"enabled": True, "port": port, "num_replicas": replicas}, where="foundry deploy")
    with open_context(store, cluster=address) as context:
        endpoint = deploy(model, serve, context=context)
    emit(endpoint, lambda: endpoint_line(endpoint))


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
