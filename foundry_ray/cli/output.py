"""How a command ends: a document or a table on stdout, an error with its hint on stderr, and the exit code."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from foundry_ray.context import Context

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
StoreOption = Annotated[str | None, typer.Option("--store", metavar="URI", help="embedded, file:///path or s3://bucket/prefix.")]


def emit(value: object, render: Callable[[], RenderableType]) -> None:
    """Print a value: as JSON where `--json` was given, else as `render` draws it."""
    from foundry_ray.types import to_json

    if _State.as_json:
        sys.stdout.write(json.dumps(to_json(value), indent=2, allow_nan=False) + "\n")
    else:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(render())


def text(message: str) -> Callable[[], str]:
    """A plain line as a renderable."""
    return lambda: message


def on_interrupt(command: str) -> None:
    """What to print when the user interrupts from here on: the command that goes on."""
    _State.interrupted_hint = command


def run_app(app: typer.Typer) -> int:
    """Run the command line and turn its end into an exit code: the one process border that catches everything typed."""
    from foundry_ray.errors import FoundryError

    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = int(app(standalone_mode=False, prog_name="foundry") or 0)
    except FoundryError as error:
        _fail(type(error).__name__, error.message, error.hint, error.exit_code)
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


@contextmanager
def open_context(store: str | None, *, cluster: str = "local", keep: bool = False, events: str = "") -> Iterator[Context]:
    """The surroundings of a command, closed at its end. `store` None: FOUNDRY_STORE, else the embedded one."""
    from foundry_ray.clock import SystemClock
    from foundry_ray.config import settings as read_settings
    from foundry_ray.context import Context
    from foundry_ray.observability import ConsoleReporter

    settings = read_settings()
    clock = SystemClock()
    path: Path | None = settings.home / "events" / f"{events}.jsonl" if events else None
    reporter = ConsoleReporter(events=path, clock=clock)
    with Context(settings=settings, clock=clock, reporter=reporter, store_uri=store or settings.store, cluster=cluster, is_kept=keep) as context:
        yield context
