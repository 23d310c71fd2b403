"""An analysis for the terminal, in 100 columns, and as one figure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from foundry_ray.errors import ConfigError
from foundry_ray.reporting import units
from foundry_ray.reporting.tables import simple

if TYPE_CHECKING:
    from foundry_ray.compression.analysis import Analysis, GroupFacts, Reached

_SHOWN_NAME = 44


def analysis_view(analysis: Analysis) -> RenderableType:
    """All of it on a screen."""
    parts: list[RenderableType] = [_head(analysis), "", _layers(analysis), "", _groups(analysis)]
    if any(one.how == "int8" for one in analysis.sensitivities):
        parts += ["", _int8(analysis)]
    parts += [_reached(one) for one in analysis.reached]
    return Group(*parts, *(Text(f"note: {note}", style="yellow") for note in analysis.notes))


def write_plot(analysis: Analysis, path: Path) -> None:
    """Draw where parameters, work and time lie, and what each group can lose. Raises ConfigError where the file cannot be written."""
    from foundry_ray.reporting.figures import anatomy

    drawn = anatomy(analysis)
    try:
        path.write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.", hint="name a file in an existing folder: `--plot FILE.svg`.") from error


def _head(analysis: Analysis) -> Text:
    said = [
        f"{units.si_count(analysis.num_params)} parameters",
        f"{units.si_count(analysis.num_macs)} MACs",
        units.si_bytes(analysis.num_bytes),
        *([f"{analysis.latency_ms:.3f} ms a sample, profiled"] if analysis.latency_ms is not None else []),
        *([f"{units.percent(analysis.accuracy)} on {analysis.num_rows} held-back training rows"] if analysis.accuracy is not None else []),
    ]
    return Text(f"{analysis.family}  ", style="bold").append(", ".join(said), style="not bold")


def _layers(analysis: Analysis) -> Table:
    rows = [
        (
            _short(layer.name) or ("(the model itself)" if layer.num_params else "(no layer)"),
            layer.kind,
            units.si_count(layer.num_params) if layer.num_params else "",
            units.si_count(layer.num_macs) if layer.num_macs else "",
            units.si_bytes(layer.num_bytes) if layer.num_bytes else "",
            "" if layer.latency_ratio is None else f"{layer.latency_ratio:.1%}",
        )
        for layer in analysis.layers
    ]
    numbers = ("parameters", "MACs", "bytes", "time")
    return simple("layers", ("layer", "kind", *numbers), rows, right=numbers)


def _groups(analysis: Analysis) -> Table:
    """What is coupled, and the points that each loses where it alone is cut."""
    ratios = sorted({one.ratio for one in analysis.sensitivities if one.how == "prune"})
    lost = {(one.name, one.ratio): _points(analysis, one.accuracy) for one in analysis.sensitivities if one.how == "prune"}
    columns = tuple(f"-{ratio:.0%}" for ratio in ratios)
    rows = [
        (_short(group.name), _units(group), *(lost.get((group.name, ratio), "") for ratio in ratios), _coupled(group)) for group in analysis.groups
    ]
    table = simple("groups of coupled channels", ("group", "units", *columns, "with"), rows, right=("units", *columns))
    if ratios:
        table.caption = "points of accuracy after that share of one group alone is cut, without training"
        table.caption_justify = "left"
    return table


def _int8(analysis: Analysis) -> Table:
    changes = sorted((one for one in analysis.sensitivities if one.how == "int8"), key=lambda one: one.accuracy)
    rows = [(_short(one.name), _points(analysis, one.accuracy)) for one in changes]
    return simple("one layer in int8", ("layer", "points"), rows, right=("points",))


def _points(analysis: Analysis, accuracy: float) -> str:
    return f"{100 * (accuracy - (analysis.accuracy or 0.0)):+.2f}"


def _units(group: GroupFacts) -> str:
    if group.is_heads:
        return f"{group.num_units} heads"
    per_unit = group.num_channels // max(1, group.num_units)
    return str(group.num_units) if per_unit == 1 else f"{group.num_units} x {per_unit}"


def _coupled(group: GroupFacts) -> str:
    if group.kept_because:
        return f"stays whole: {group.kept_because}"
    others = [_short(name) for name in group.layers if name != group.name.partition(":")[0]]
    return ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")


def _reached(one: Reached) -> Text:
    values = ", ".join(_values(one))
    if one.ratio is None:
        return Text(f"limit {one.limit}: not by pruning alone; at ratio 0.95 it is {values}", style="bold red")
    said = "kept as it is" if one.ratio == 0 else f"kept from prune_ratio {one.ratio:.2f} on"
    return Text(f"limit {one.limit}: {said}; then it is {values}", style="green")


def _values(one: Reached) -> Iterator[str]:
    for metric, value in one.values.items():
        yield f"{units.short(metric)} {units.value(metric, value)}"


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN_NAME else f"...{name[3 - _SHOWN_NAME :]}"
