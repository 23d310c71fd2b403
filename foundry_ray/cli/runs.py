"""Commands on what runs left behind: runs, report, trials; and how a run moves to another store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foundry_ray.cli.output import JsonOption, StoreOption, emit, text

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run id, the beginning of one, or `latest`.")]


def runs_list(store: StoreOption = None, json_output: JsonOption = False) -> None:
    """List the runs in the store, latest last."""
    from foundry_ray.context import open_context
    from foundry_ray.reporting.lists import runs_table
    from foundry_ray.runlog import list_runs, load_run

    with open_context(store) as context:
        records = sorted((load_run(context.store, run_id) for run_id in list_runs(context.store)), key=lambda record: record.started_at)
    emit(records, lambda: runs_table(records))


def runs_show(run: RunArgument, store: StoreOption = None, json_output: JsonOption = False) -> None:
    """Show a run: its stages, and the comparison it ended in."""
    from foundry_ray.context import open_context
    from foundry_ray.reporting.tables import run_summary
    from foundry_ray.runlog import find_run

    with open_context(store) as context:
        record = find_run(context.store, run)
    emit(record, lambda: run_summary(record))


def runs_delete(run: RunArgument, store: StoreOption = None, json_output: JsonOption = False) -> None:
    """Delete a run's record, also one that cannot be read. Stage results stay: other runs may use them."""
    from foundry_ray.context import open_context
    from foundry_ray.runlog import delete_run, find_run_id

    with open_context(store) as context:
        run_id = find_run_id(context.store, run)
        delete_run(context.store, run_id)
    hint = "What nothing else names now, `foundry store gc --apply` removes once it is old enough; `foundry store gc` shows it."
    emit({"deleted": run_id}, text(f"Deleted the record of {run_id}. {hint}"))


def runs_export(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to: a name that ends in .tar or .tar.gz.")],
    with_checkpoints: Annotated[bool, typer.Option("--with-checkpoints", help="Take along the checkpoints that `store.retention` keeps.")] = False,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write a run with its results, artifacts, journal and registered version into one file."""
    from foundry_ray.context import open_context
    from foundry_ray.housekeeping.exporting import export_run
    from foundry_ray.reporting.housekeeping import exported_line
    from foundry_ray.runlog import find_run_id

    with open_context(store) as context:
        retention = context.store_config.retention if with_checkpoints else None
        exported = export_run(context.store, find_run_id(context.store, run), file, checkpoints=retention, reporter=context.reporter)
    emit(exported, lambda: exported_line(exported))


def runs_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `foundry runs export` wrote.")],
    max_bytes: Annotated[
        int | None, typer.Option("--max-bytes", min=1, metavar="BYTES", help="Most bytes that the file may hold; 100 GiB if absent.")
    ] = None,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Read a run from a file into the store. All of it is checked first; nothing is overwritten, and no alias moves."""
    from foundry_ray.context import open_context
    from foundry_ray.housekeeping.archive import MAX_BYTES
    from foundry_ray.housekeeping.importing import import_run
    from foundry_ray.reporting.housekeeping import imported_line

    with open_context(store) as context:
        scratch = context.settings.home / "scratch"
        imported = import_run(context.store, file, max_bytes=max_bytes or MAX_BYTES, scratch=scratch, reporter=context.reporter)
    emit(imported, lambda: imported_line(imported))


def report(
    run: RunArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write the page.")] = None,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write a run's report as one self-contained HTML page."""
    from foundry_ray.context import open_context
    from foundry_ray.reporting.page import write
    from foundry_ray.runlog import find_run
    from foundry_ray.search.importance import importances_of

    with open_context(store) as context:
        record = find_run(context.store, run)
        path = write(context.store, record, output or Path(f"{record.run_id}.html"), importances_of(record, context.store))
    emit({"run_id": record.run_id, "path": str(path)}, text(f"Wrote {path}"))


def trials(
    run: RunArgument,
    pareto: Annotated[bool, typer.Option("--pareto", help="Only the Pareto front.")] = False,
    sort: Annotated[str | None, typer.Option("--sort", metavar="KEY", help="A metric, a parameter, or `number`.")] = None,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """List the trials of a run's study, also while it runs."""
    from foundry_ray.context import open_context
    from foundry_ray.reporting.leaderboard import columns, leaderboard
    from foundry_ray.reporting.tables import trials_table
    from foundry_ray.runlog import find_run
    from foundry_ray.search.importance import importances_of, that_matter
    from foundry_ray.studies import study_as_it_stands

    with open_context(store) as context:
        record = find_run(context.store, run)
        study = study_as_it_stands(record, context)
        shown = leaderboard(study, only_front=pareto, sort=sort)
        params = columns(shown, that_matter(importances_of(record, context.store)))
    emit(shown, lambda: trials_table(study, shown, params))


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    runs = typer.Typer(help="Run records.", no_args_is_help=True)
    runs.command("list")(runs_list)
    runs.command("show")(runs_show)
    runs.command("delete")(runs_delete)
    runs.command("export")(runs_export)
    runs.command("import")(runs_import)
    app.add_typer(runs, name="runs")
    app.command("report")(report)
    app.command("trials")(trials)
