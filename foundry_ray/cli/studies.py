"""Commands on the study of a run: show, extend, export."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Annotated

import typer

from foundry_ray.cli.output import JsonOption, StoreOption, emit, on_interrupt
from foundry_ray.cli.pipelines import AddressOption, SetOption, end
from foundry_ray.cli.runs import RunArgument


def study_show(run: RunArgument, store: StoreOption = None, json_output: JsonOption = False) -> None:
    """Show what a study cost, which parameters mattered, and what other policies would choose."""
    from foundry_ray.context import open_context
    from foundry_ray.reporting.studies import study_summary
    from foundry_ray.runlog import find_run
    from foundry_ray.search.overview import overview

    with open_context(store) as context:
        found = overview(find_run(context.store, run), context.store)
    emit(found, lambda: study_summary(found))


def study_extend(
    run: RunArgument,
    trials: Annotated[int | None, typer.Option("--trials", min=1, metavar="N", help="So many more trials; else as many as the run's budget.")] = None,
    space: Annotated[str | None, typer.Option("--space", metavar="SPACE", help="Another file of search_spaces/, or a path.")] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            "--objective", metavar="METRIC:MODE", help="In place of the run's objectives; may be given several times, the first counts most."
        ),
    ] = None,
    set_: SetOption = None,
    store: StoreOption = None,
    address: AddressOption = None,
    json_output: JsonOption = False,
) -> None:
    """Run a larger study that begins with what a run's study found: its trials where the training is the same, else its best parameters."""
    from foundry_ray.context import open_context
    from foundry_ray.reporting.studies import extension_summary
    from foundry_ray.search.extending import Changes
    from foundry_ray.studies import extend_study

    changes = Changes(trials=trials, space=space, objectives=tuple(objective or ()), overrides=tuple(set_ or ()))
    with open_context(store, events=run) as context:
        extension = extend_study(
            run, changes, context=context, cluster=address, on_start=lambda run_id: on_interrupt(" ".join(_resuming(run_id, store)))
        )
    end(extension.record, extension, lambda: extension_summary(extension))


def study_export(
    run: RunArgument,
    to: Annotated[str, typer.Option("--to", metavar="STORAGE", help="sqlite:///FILE or journal:FILE; the file must be new.")],
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write a run's study into an Optuna storage, which optuna-dashboard opens."""
    from foundry_ray.context import open_context
    from foundry_ray.reporting.studies import exported_study_line
    from foundry_ray.runlog import find_run
    from foundry_ray.search.exporting import export_run_study

    with open_context(store) as context:
        exported = export_run_study(find_run(context.store, run), to, store=context.store, reporter=context.reporter)
    emit(exported, lambda: exported_study_line(exported))


def _resuming(run_id: str, store: str | None) -> Iterator[str]:
    yield f"foundry resume {run_id}"
    if store:
        yield f"--store {shlex.quote(store)}"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    study = typer.Typer(help="The study of a run.", no_args_is_help=True)
    study.command("show")(study_show)
    study.command("extend")(study_extend)
    study.command("export")(study_export)
    app.add_typer(study, name="study")
