"""The command that takes a model apart before it is compressed: analyze."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foundry_ray.cli.output import JsonOption, StoreOption, emit


def analyze(
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_RUN", help="name@alias, name:version, or a run, whose teacher is looked at.")],
    limit: Annotated[
        list[str] | None, typer.Option("--limit", metavar="LIMIT", help='Which prune ratio keeps it, as "num_macs <= 5e6"; several may be given.')
    ] = None,
    ratio: Annotated[
        list[float] | None, typer.Option("--ratio", min=0.01, max=0.95, help="At which each group is cut alone; 0.25, 0.5, 0.75.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Training rows that are held back to judge on.")] = 512,
    no_profile: Annotated[bool, typer.Option("--no-profile", help="Without the time of each layer, for which the model is exported.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Without sensitivities, which take most of the time.")] = False,
    student: Annotated[bool, typer.Option("--student", help="Of a run, its student.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw it into an .svg, too.")] = None,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Tell what a model is made of: costs and time by layer, what is coupled, what it can lose, and which prune ratio keeps a limit."""
    from foundry_ray.analyses import analyze_stored
    from foundry_ray.compression.analysis import RATIOS
    from foundry_ray.context import open_context
    from foundry_ray.reporting.analysis import analysis_view, write_plot

    ratios = () if quick else tuple(ratio or RATIOS)
    with open_context(store) as context:
        found = analyze_stored(model, context=context, limits=limit or (), ratios=ratios, num_rows=rows, profile=not no_profile, of_student=student)
    emit(found, lambda: analysis_view(found))
    if plot is not None:
        write_plot(found, plot)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("analyze")(analyze)
