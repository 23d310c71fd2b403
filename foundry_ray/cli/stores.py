"""Commands on the embedded store: store serve, stop, status."""

from __future__ import annotations

import typer

from foundry_ray.cli.output import JsonOption, emit, text


def store_serve(json_output: JsonOption = False) -> None:
    """Start the embedded S3 server; it runs until `foundry store stop`."""
    from foundry_ray.artifacts import embedded
    from foundry_ray.clock import SystemClock
    from foundry_ray.config import settings
    from foundry_ray.context import keep_services

    state = embedded.serve(settings(), SystemClock())
    keep_services(settings())
    emit(state.public(), text(f"embedded store at {state.endpoint}; credentials in {state.credentials_path}"))


def store_stop(json_output: JsonOption = False) -> None:
    """Stop the embedded S3 server; what it holds stays on disk."""
    from foundry_ray.config import settings
    from foundry_ray.context import stop_services

    stopped = stop_services(settings(), head=False)
    emit(stopped, text("Stopped the embedded store." if stopped["store"] else "The embedded store was not running."))


def store_status(json_output: JsonOption = False) -> None:
    """Say whether the embedded S3 server runs, and where."""
    from foundry_ray.artifacts import embedded
    from foundry_ray.config import settings

    state = embedded.status(settings())
    shown = f"running at {state.endpoint}, pid {state.pid}" if state else "not running; `foundry store serve` starts it"
    emit({"running": state is not None, "store": state.public() if state else None}, text(shown))


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    store = typer.Typer(help="The embedded S3 store.", no_args_is_help=True)
    store.command("serve")(store_serve)
    store.command("stop")(store_stop)
    store.command("status")(store_status)
    app.add_typer(store, name="store")
