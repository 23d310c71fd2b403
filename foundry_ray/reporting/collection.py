"""The table of `foundry store gc`: what goes, what stays and why, and when to come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from foundry_ray.reporting import units
from foundry_ray.reporting.tables import simple

if TYPE_CHECKING:
    from foundry_ray.housekeeping.gc import Collection


def collection_table(collection: Collection) -> RenderableType:
    """By kind, then one line that says what was done and what comes next."""
    rows = [
        (
            kind.kind,
            str(kind.num_going) if kind.num_going else "-",
            units.si_bytes(kind.going_bytes) if kind.num_going else "-",
            str(kind.num_staying),
            units.si_bytes(kind.staying_bytes),
            kind.why,
        )
        for kind in collection.kinds
    ]
    table = simple(collection.store, ("kind", _GOING[collection.action], "size", "stay", "size", "why"), rows)
    uploads = f" {collection.num_uploads} abandoned uploads were dropped." if collection.num_uploads else ""
    return Group(table, "", Text(_line(collection) + uploads))


_GOING = {"looked": "would go", "clean": "go", "marked": "marked", "waiting": "marked", "deleted": "deleted"}


def _line(collection: Collection) -> str:
    amount = f"{collection.num_going} objects, {units.si_bytes(collection.going_bytes)}"
    grace, wait = units.duration(collection.grace_s), units.duration(collection.ready_in_s)
    apply = f"--apply marks them, and deletes them once they were marked for {grace}" if collection.grace_s else "--apply deletes them"
    lines = {
        "looked": f"{amount}, would go. Nothing was changed; {apply}.",
        "clean": f"Nothing goes: all is needed, or younger than {grace}.",
        "marked": f"{amount}, are marked. Repeat the command in {wait} to delete those that nothing needs by then.",
        "waiting": f"{amount}, are marked already. Repeat the command in {wait} to delete those that nothing needs by then.",
        "deleted": f"{amount}, are deleted.",
    }
    return lines[collection.action]
