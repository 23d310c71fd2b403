"""Tables on the store itself: what `store verify` and `store du` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from foundry_ray.reporting import units
from foundry_ray.reporting.tables import simple

if TYPE_CHECKING:
    from foundry_ray.housekeeping.damage import Problem
    from foundry_ray.housekeeping.exporting import Exported
    from foundry_ray.housekeeping.importing import Imported
    from foundry_ray.housekeeping.usage import StoreUsage
    from foundry_ray.housekeeping.verify import StoreCheck

_NUM_SHOWN = 5
_STYLE = {"missing": "red", "corrupt": "red", "newer": "yellow", "orphaned": "dim", "expired": "dim"}


def check_table(check: StoreCheck) -> RenderableType:
    """The findings, then one line that says what was looked at and how it stands."""
    scope = f"{check.scope} in {check.store}" if check.scope else check.store
    hashed = f", {check.num_hashed} of them hashed ({units.si_bytes(check.hashed_bytes)})" if check.is_deep else ", sizes only"
    num_damaged = sum(problem.is_damage for problem in check.problems)
    verdict = "nothing is missing or corrupt" if check.is_sound else f"{num_damaged} missing or corrupt"
    line = f"{scope}: {check.num_objects} objects, {check.num_documents} documents read{hashed}: {verdict}."
    parts: list[RenderableType] = [_problems_table(check), ""] if check.problems else []
    return Group(*parts, Text(line, style="green" if check.is_sound else "red"))


def _problems_table(check: StoreCheck) -> Table:
    """Findings that break the same and are mended the same stand together."""
    table = simple("", ("found", "what, what it breaks, what mends it"), ())
    for (kind, breaks, fix), problems in _alike(check.problems).items():
        lines = [f"{problem.key}: {_detail(problem)}" for problem in problems[:_NUM_SHOWN]]
        if len(problems) > _NUM_SHOWN:
            lines.append(f"and {len(problems) - _NUM_SHOWN} more (--json lists all)")
        lines += [f"breaks: {', '.join(breaks)}"] * bool(breaks) + [f"fix: {fix}"] * bool(fix)
        table.add_row(Text(kind, style=_STYLE[kind]), Text("\n".join(lines)))
    return table


def _alike(problems: Sequence[Problem]) -> dict[tuple[str, tuple[str, ...], str], list[Problem]]:
    groups: dict[tuple[str, tuple[str, ...], str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.kind, problem.breaks, problem.fix), []).append(problem)
    return groups


def _detail(problem: Problem) -> str:
    if problem.size_bytes:
        return f"{problem.num_objects} objects, {units.si_bytes(problem.size_bytes)}: {problem.detail}"
    return problem.detail


def usage_table(usage: StoreUsage) -> RenderableType:
    """Bytes by kind and by run, the total, and its price."""
    kinds = simple(
        "",
        ("kind", "objects", "size"),
        [(kind.kind, str(kind.num_objects), units.si_bytes(kind.size_bytes)) for kind in usage.kinds],
        right=("objects", "size"),
    )
    kinds.add_section()
    kinds.add_row("total", str(usage.num_objects), units.si_bytes(usage.size_bytes), style="bold")
    runs = simple(
        "",
        ("run", "objects", "only this run", "shared"),
        [(run.run_id, str(run.num_objects), units.si_bytes(run.own_bytes), units.si_bytes(run.shared_bytes)) for run in usage.runs],
        right=("objects", "only this run", "shared"),
    )
    price = f"{usage.monthly_price:.2f}" if usage.monthly_price >= 0.01 or not usage.size_bytes else "less than 0.01"
    assumed = f"assuming {usage.price_per_gb_month:g} USD a month for a GB of 2^30 bytes (--price-per-gb-month), without requests and traffic"
    parts: list[RenderableType] = [kinds, "", runs] if usage.runs else [kinds]
    return Group(Text(usage.store, style="bold"), *parts, "", Text(f"{price} USD a month, {assumed}."))


def exported_line(exported: Exported) -> str:
    """What was written."""
    sizes = f"{exported.num_objects} objects, {units.si_bytes(exported.size_bytes)}, in {units.si_bytes(exported.archive_bytes)}"
    return f"Wrote {exported.run_id} to {exported.path}: {sizes}. `foundry runs import {exported.path} --store STORE` reads it."


def imported_line(imported: Imported) -> str:
    """What was read, and what stays behind."""
    was = f"{imported.num_new} of {imported.num_objects} objects are new" if imported.num_new else "everything was there already"
    name = imported.model.partition(":")[0]
    model = (
        f" Its model is {imported.model} here; `foundry models promote {imported.model}` points {name}@champion at it, if its report passed."
        if imported.model
        else ""
    )
    return f"Imported {imported.run_id}: {was}.{model}"
