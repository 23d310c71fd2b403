"""All parts of an analysis in one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from foundry_ray.compression.analysis.facts import Analysis, GroupFacts, LayerFacts, Limit, Reached, Sensitivity
from foundry_ray.compression.analysis.reaching import Latency, reach
from foundry_ray.compression.cost import LayerCost, cost, layer_costs
from foundry_ray.compression.rows import labelled
from foundry_ray.errors import ConfigError, RecipeInfeasible
from foundry_ray.protocols import Given

if TYPE_CHECKING:
    from torch import nn

    from foundry_ray.compression.groups import Coupling

RATIOS = (0.25, 0.5, 0.75)


def analyze(
    model: nn.Module,
    given: Given,
    *,
    limits: Sequence[Limit] = (),
    ratios: Sequence[float] = RATIOS,
    num_rows: int = 512,
    latency: Latency | None = None,
    profile: bool = True,
    progress: Callable[[str], None] = lambda note: None,
) -> Analysis:
    """Take a model apart; it is left as it was.

    Args:
        model: Any torch model; attention of `nn.MultiheadAttention` is looked at as `models.slim_attention` writes it.
        given: Rows for sensitivities, the schema, the task. Without rows there are no sensitivities.
        limits: On costs; which ratio keeps each.
        ratios: At which each group is cut alone; none ask for no sensitivities.
        num_rows: Held-back rows that accuracies are measured on.
        latency: Measures an exported file, for limits on latency.
        profile: Export the model and profile the file; exporting takes seconds where torch's exporter has to do it.
        progress: Told what begins.

    What one model has not (a graph that can be followed, an export) is noted, and the rest is said all the same.
    """
    from foundry_ray.models.slim_attention import with_slim_attention

    model = with_slim_attention(copy.deepcopy(model)).eval()
    notes: list[str] = []
    progress("costs")
    layers, latency_ms = _layers(model, given, notes if profile else None)
    progress("groups")
    couplings = _couplings(model, given, notes)
    before, measured, num_held = _sensitivities(model, couplings, given, ratios, num_rows, notes, progress)
    progress("limits")
    counted = cost(model, given.schema)
    return Analysis(
        family=str(getattr(model, "family", type(model).__name__)),
        num_params=counted.num_params,
        num_macs=counted.num_macs,
        num_bytes=sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
        layers=layers,
        groups=tuple(_group(coupling) for coupling in couplings),
        accuracy=before,
        num_rows=num_held,
        latency_ms=latency_ms,
        sensitivities=measured,
        reached=_reached(model, limits, given, latency, notes),
        notes=tuple(notes),
    )


def _layers(model: nn.Module, given: Given, notes: list[str] | None) -> tuple[tuple[LayerFacts, ...], float | None]:
    """With their shares of time, unless `notes` are None."""
    from foundry_ray.compression.analysis.profiling import time_by_layer
    from foundry_ray.compression.export import to_onnx

    counted = layer_costs(model, given.schema)
    element = {name: next(model.get_submodule(name).parameters(recurse=False)).element_size() for name, _, num_params, _ in counted if num_params}
    try:
        exported = to_onnx(model, given.schema) if notes is not None else None
    except (ConfigError, RecipeInfeasible) as error:
        assert notes is not None, "exported where there are notes"
        notes.append(f"no latency: {error.message}")
        exported = None
    if exported is None:
        return tuple(_layer(layer, element.get(layer.name, 0), None) for layer in counted), None
    total, by_layer, by_kind = time_by_layer(exported, [layer.name for layer in counted])
    facts = [_layer(layer, element.get(layer.name, 0), by_layer.get(layer.name, 0.0) / total) for layer in counted]
    others = [LayerFacts(name="", kind=kind, num_params=0, num_macs=0, num_bytes=0, latency_ratio=value / total) for kind, value in by_kind.items()]
    return (*facts, *sorted(others, key=lambda other: -(other.latency_ratio or 0.0))), total


def _layer(layer: LayerCost, element_size: int, latency_ratio: float | None) -> LayerFacts:
    return LayerFacts(
        name=layer.name,
        kind=layer.kind,
        num_params=layer.num_params,
        num_macs=layer.num_macs,
        num_bytes=layer.num_params * element_size,
        latency_ratio=latency_ratio,
    )


def _couplings(model: nn.Module, given: Given, notes: list[str]) -> tuple[Coupling, ...]:
    from foundry_ray.compression.cutting import breaking
    from foundry_ray.compression.groups import Couplings

    try:
        return Couplings(copy.deepcopy(model), given.schema, kept=breaking(model, given)).found
    except RecipeInfeasible as error:
        notes.append(error.message)
        return ()


def _reached(model: nn.Module, limits: Sequence[Limit], given: Given, latency: Latency | None, notes: list[str]) -> tuple[Reached, ...]:
    try:
        return tuple(reach(model, limits, given, latency=latency)) if limits else ()
    except RecipeInfeasible as error:
        notes.append(f"no ratio for a limit: {error.message}")
        return ()


def _group(coupling: Coupling) -> GroupFacts:
    return GroupFacts(
        name=coupling.name,
        layers=tuple(dict.fromkeys(member.name for member in coupling.members)),
        num_channels=coupling.width,
        num_units=coupling.num_units,
        is_heads=coupling.is_heads,
        kept_because=coupling.kept_because,
    )


def _sensitivities(
    model: nn.Module,
    couplings: Sequence[Coupling],
    given: Given,
    ratios: Sequence[float],
    num_rows: int,
    notes: list[str],
    progress: Callable[[str], None],
) -> tuple[float | None, tuple[Sensitivity, ...], int]:
    """The metric before, what each group and layer costs of it, and on how many rows."""
    from foundry_ray.compression.analysis import sensitivity

    given = labelled(given)
    if given.inputs_N is None or len(given.inputs_N) < 2 or not given.task:
        notes.append("no sensitivities: there are no training rows with labels to hold back")
        return None, (), 0
    seen, held = sensitivity.split_rows(given, num_rows)
    assert held.inputs_N is not None, "split off rows that are there"
    before = sensitivity.accuracy(model, held)
    if not ratios:
        return before, (), len(held.inputs_N)
    progress("sensitivity of groups")
    of_groups = tuple(sensitivity.of_groups(model, couplings, ratios, seen, held))
    progress("sensitivity of layers in int8")
    return before, (*of_groups, *sensitivity.of_int8(model, held)), len(held.inputs_N)
