"""How a command ends: a document or a table on stdout, an error with its hint on stderr, and the exit code."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType


T = TypeVar("T")
INTERRUPTED = 130
_PIPED_WIDTH = 120


class _State:
    """What the options of this process's one command said."""

    as_json: bool = False
    interrupted_hint: str = ""


def _set_json(value: bool) -> bool:
    _State.as_json = value
    return value


JsonOption = Annotated[bool, typer.Option("--json", callback=_set_json, is_eager=True, help="One JSON document on stdout, logs on stderr.")]
StoreOption = Annotated[str | None, typer.Option("--store", metavar="STORE", help="embedded, file:///path, s3://bucket/prefix, or a .yaml file.")]


def emit(value: object, render: Callable[[], RenderableType]) -> None:
    """Print a value: as JSON where `--json` was given, else as `render` draws it."""
    from foundry_ray.types import to_json

    if _State.as_json:
        sys.stdout.write(json.dumps(to_json(value), indent=2, allow_nan=False) + "\n")
    else:
        from rich.console import Console
        from rich.text import Text

        rendered = render()
        is_line = isinstance(rendered, Text)  # a command in a line must not be broken in two
        Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(rendered, soft_wrap=is_line)


def text(message: str) -> Callable[[], RenderableType]:
    """A plain line as a renderable; brackets in it are brackets."""

    def line() -> RenderableType:
        from rich.text import Text

        return Text(message)

    return line


def on_interrupt(command: str) -> None:
    """What to print when the user interrupts from here on: the command that goes on."""
    _State.interrupted_hint = command


def run_app(app: typer.Typer) -> int:
    """Run the command line and turn its end into an exit code: the one process border that catches everything typed."""
    from foundry_ray.errors import ClusterUnreachable, FoundryError

    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = int(app(standalone_mode=False, prog_name="foundry") or 0)
    except FoundryError as error:
        is_away = isinstance(error, ClusterUnreachable) and bool(_State.interrupted_hint)
        hint = f"{error.hint.rstrip('.')}; `{_State.interrupted_hint}` goes on from here." if is_away else error.hint
        _fail(type(error).__name__, error.message, hint, error.exit_code)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except typer.Exit as stop:
        code = int(stop.exit_code)
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            _fail("Usage", error.format_message(), "`foundry --help` lists the commands, `foundry COMMAND --help` its options.", 2)
            return 2
        raise
    if code == INTERRUPTED:  # also how typer hands on a KeyboardInterrupt: as a code, and without a word
        hint = _State.interrupted_hint
        _fail("Interrupted", "Interrupted; the state is saved.", f"`{hint}` goes on from here." if hint else "", INTERRUPTED)
    return code


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fail(kind: str, message: str, hint: str, code: int) -> None:
    if _State.as_json:
        sys.stdout.write(json.dumps({"error": kind, "message": message, "hint": hint, "exit_code": code}, indent=2) + "\n")
    sys.stderr.write(f"{'' if kind in ('Interrupted', 'Usage') else 'error: '}{message}\n" + (f"hint:  {hint}\n" if hint else ""))
