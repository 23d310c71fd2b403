"""The command replay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from foundry_ray.cli.output import JsonOption, StoreOption, emit
from foundry_ray.cli.pipelines import AddressOption

if TYPE_CHECKING:
    from foundry_ray.replay import Replay

_DIFFERENT = 3


def replay(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="name:version or name@alias.")],
    only: Annotated[Literal["student"] | None, typer.Option("--only", help="Make the student alone, of the original's data set and teacher.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the second making under FOUNDRY_HOME/replays.")] = False,
    store: StoreOption = None,
    address: AddressOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make a registered version again from its lineage, and compare: identical, equivalent or different (exit code 3)."""
    from foundry_ray.context import open_context
    from foundry_ray.replay import replay as make_again

    with open_context(store, events="replay") as context:
        found = make_again(version, context=context, only=only, cluster=address, keep=keep)
    _finish(found)


def _finish(found: Replay) -> None:
    from foundry_ray.replay import Verdict
    from foundry_ray.reporting.replay import replay_table

    emit(found, lambda: replay_table(found))
    if found.verdict is Verdict.DIFFERENT:
        raise typer.Exit(_DIFFERENT)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("replay")(replay)
