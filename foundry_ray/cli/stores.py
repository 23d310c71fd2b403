"""Commands on the store: serve, stop and status of the embedded one; verify, du and gc of any."""

from __future__ import annotations

from typing import Annotated

import typer

from foundry_ray.cli.output import JsonOption, StoreOption, emit, text


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
    """Say whether the embedded S3 server runs, where, and what it takes."""
    from foundry_ray.artifacts import embedded
    from foundry_ray.config import settings
    from foundry_ray.reporting.units import si_bytes
    from foundry_ray.types import to_json

    state = embedded.status(settings())
    if state is None:
        emit({"running": False, "store": None, "usage": None}, text("not running; `foundry store serve` starts it"))
        return
    usage = embedded.usage(state)
    shown = (
        f"running at {state.endpoint}, pid {state.pid}; memory {si_bytes(usage.memory_bytes)}, disk {si_bytes(usage.data_bytes)}"
        f" ({si_bytes(usage.free_bytes)} free)"
    )
    if not state.is_locked:
        shown += "; an earlier version started it, and every user of this machine can read it: `foundry store serve` replaces it"
    emit({"running": True, "store": state.public(), "usage": to_json(usage)}, text(shown))


def store_verify(
    name: Annotated[str, typer.Argument(metavar="[RUN|MODEL]", help="Look only at what this run or version needs.")] = "",
    deep: Annotated[bool, typer.Option("--deep", help="Read and hash every file, not only the documents and the sizes.")] = False,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Find what is missing, corrupt or orphaned in the store, what that breaks, and what mends it. Ends with 5 where something is broken."""
    from foundry_ray.context import open_context
    from foundry_ray.errors import ArtifactCorrupt
    from foundry_ray.housekeeping.verify import check_store
    from foundry_ray.reporting.housekeeping import check_table

    with open_context(store) as context:
        check = check_store(context.store, name=name, deep=deep, reporter=context.reporter)
    emit(check, lambda: check_table(check))
    if not check.is_sound:
        raise typer.Exit(ArtifactCorrupt.exit_code)


def store_du(
    price_per_gb_month: Annotated[
        float | None, typer.Option("--price-per-gb-month", min=0.0, metavar="USD", help="What a GB (2^30 bytes) costs a month; 0.023 if absent.")
    ] = None,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Say what the store holds, by kind and by run, and what that costs a month."""
    from foundry_ray.context import open_context
    from foundry_ray.housekeeping.usage import PRICE_PER_GB_MONTH, measure_usage
    from foundry_ray.reporting.housekeeping import usage_table

    with open_context(store) as context:
        usage = measure_usage(context.store, price_per_gb_month=PRICE_PER_GB_MONTH if price_per_gb_month is None else price_per_gb_month)
    emit(usage, lambda: usage_table(usage))


def store_gc(
    apply: Annotated[bool, typer.Option("--apply", help="Mark what goes; where it was marked a grace ago, delete it.")] = False,
    grace: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How long what nothing names is left alone before it is marked, and again before it is deleted: 30m, 24h, 7d. "
            "With 0s both happen at once: let running pipelines finish first.",
        ),
    ] = "24h",
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Say what nothing in the store needs any more, by kind; with --apply, remove it in two steps. `store.retention` says what may go."""
    from foundry_ray.context import open_context
    from foundry_ray.housekeeping.gc import Collector
    from foundry_ray.reporting.collection import collection_table
    from foundry_ray.reporting.units import parse_duration

    grace_s = parse_duration(grace, key="--grace")
    with open_context(store) as context:
        collector = Collector(
            store=context.store,
            retention=context.store_config.retention,
            grace_s=grace_s,
            clock=context.clock,
            reporter=context.reporter,
            limits=context.limits,
        )
        collection = collector.collect() if apply else collector.look()
    emit(collection, lambda: collection_table(collection))


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    store = typer.Typer(help="The store: the embedded server, and what a store holds.", no_args_is_help=True)
    store.command("serve")(store_serve)
    store.command("stop")(store_stop)
    store.command("status")(store_status)
    store.command("verify")(store_verify)
    store.command("du")(store_du)
    store.command("gc")(store_gc)
    app.add_typer(store, name="store")
