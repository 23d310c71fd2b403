"""The table that `foundry replay` ends in: point by point, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from foundry_ray.reporting import units
from foundry_ray.reporting.tables import simple

if TYPE_CHECKING:
    from rich.table import Table

    from foundry_ray.replay import Point, Replay

_HASH_DIGITS = 12
_STYLE = {"equal": "green", "within": "green", "outside": "yellow", "reused": "cyan", "different": "red", "measured": "dim"}
_VERDICT_STYLE = {"identical": "bold green", "equivalent": "bold green", "different": "bold red"}
_MEANING = {
    "identical": "the same bytes",
    "equivalent": "other bytes; equal counts, metrics inside the recorded intervals, the same gates",
    "different": "see what is marked",
}


def replay_table(replay: Replay) -> RenderableType:
    """What was compared, how it came out, and what was different around it."""
    verdict = replay.verdict.value
    title = Text(f"{verdict}: {_MEANING[verdict]}", style=_VERDICT_STYLE[verdict])
    warnings = [Text(f"warning: {warning}", style="yellow") for warning in replay.warnings]
    return Group(_points(replay), title, *(Text(line, style="dim") for line in _notes(replay)), *warnings)


def _points(replay: Replay) -> Table:
    table = simple(f"replay of {replay.version}", ("point", "original", "replayed", "difference", ""), (), right=("difference",))
    for point in (point for point in replay.points if point.kind != "secondary"):
        outcome = point.outcome.value
        table.add_row(point.name, _original(point), _shown(point, point.replayed), _difference(point), Text(outcome, style=_STYLE[outcome]))
    return table


def _notes(replay: Replay) -> list[str]:
    notes = [f"made again: {', '.join(replay.made)}; the search was not: its trial is taken from the lineage"]
    if "teacher" not in replay.made:
        notes.append("reused: the data set and the teacher of the original")
    secondary = [point for point in replay.points if point.kind == "secondary"]
    num_inside = sum(point.outcome.value != "outside" for point in secondary)
    notes.append(f"of {len(secondary)} other metrics {num_inside} lie in their recorded intervals; `--json` lists them")
    notes.append(f"the test split of this data set was opened {units.times(replay.num_test_openings)}")
    if replay.folder:
        notes.append(f"the second making is kept in {replay.folder}")
    return notes


def _original(point: Point) -> str:
    shown = _shown(point, point.original)
    if point.interval is None:
        return shown
    low, high = (_metric(point.name, bound) for bound in point.interval)
    return f"{shown} [{low}, {high}]"


def _shown(point: Point, value: object) -> str:
    if isinstance(value, float):
        return _metric(point.name, value)
    return str(value)[:_HASH_DIGITS] if point.kind == "bytes" else str(value)


def _metric(name: str, value: float) -> str:
    return f"{value:.3f}" if "_ms" in name else f"{value:.4f}"


def _difference(point: Point) -> str:
    if isinstance(point.original, str) or isinstance(point.replayed, str):
        return ""
    difference = float(point.replayed) - float(point.original)
    return f"{difference:+.0f}" if point.kind == "count" else f"{difference:+.4f}"
