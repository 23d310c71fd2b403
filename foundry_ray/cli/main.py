"""Assembles the commands, and is the console script."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from foundry_ray.cli import analyses, clusters, endpoints, models, pipelines, replays, runs, stores, studies
from foundry_ray.cli.output import run_app
from foundry_ray.errors import FoundryError

app = typer.Typer(
    name="foundry",
    help="Train a large teacher, search hyperparameters and compression together, serve the small fast student. On Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        from foundry_ray import __version__

        typer.echo(f"foundry_ray {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    """Train a large teacher, search hyperparameters and compression together, serve the small fast student. On Ray."""


for part in (pipelines, runs, studies, models, analyses, replays, endpoints, clusters, stores):
    part.add_to(app)


def main() -> None:
    """Entry point of the console script. A bug keeps its traceback, and ends with the code of all that no error foresees."""
    try:
        code = run_app(app)
    except Exception:  # the process border
        traceback.print_exc()
        code = FoundryError.exit_code
    sys.exit(code)
