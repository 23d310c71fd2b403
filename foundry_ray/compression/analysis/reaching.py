"""Which `prune` ratio keeps a limit: found by cutting a copy, in steps of 0.05, by bisection, since costs never grow with the ratio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from foundry_ray.compression.analysis.facts import Limit, Reached
from foundry_ray.compression.cost import cost
from foundry_ray.compression.cutting import cut
from foundry_ray.compression.export import to_onnx
from foundry_ray.compression.prune_params import PruneParams
from foundry_ray.protocols import Given

if TYPE_CHECKING:
    from torch import nn

_STEPS = 19
_STEP = 0.05

Latency = Callable[[bytes], Mapping[str, float]]


def reach(model: nn.Module, limits: Sequence[Limit], given: Given, *, latency: Latency | None) -> list[Reached]:
    """For each limit the smallest ratio that keeps it; 0 where the model does so as it is.

    Args:
        model: Left as it is.
        limits: On costs; accuracy is nothing that this can know.
        given: Its rows are not looked at: the criterion is the default one.
        latency: `latency_p50_ms` and `latency_p95_ms` of an exported file; None where no limit is on them.

    Raises:
        RecipeInfeasible: Nothing of this model can be cut.
    """
    known: dict[int, Mapping[str, float]] = {}

    def _costs(step: int, metric: str) -> Mapping[str, float]:
        if metric not in known.get(step, {}):
            known[step] = {**known.get(step, {}), **_values(model, round(step * _STEP, 2), metric, given, latency)}
        return known[step]

    def _keeps(step: int, limit: Limit) -> bool:
        return limit.excess(_costs(step, limit.metric)[limit.metric]) == 0.0

    found = []
    for limit in limits:
        low, high = 0, _STEPS
        is_reached = _keeps(high, limit)
        while is_reached and low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if _keeps(middle, limit) else (middle + 1, high)
        found.append(Reached(limit=str(limit), ratio=round(high * _STEP, 2) if is_reached else None, values=_costs(high, limit.metric)))
    return found


def _values(model: nn.Module, ratio: float, metric: str, given: Given, latency: Latency | None) -> Mapping[str, float]:
    smaller = cut(model, PruneParams(ratio=ratio), given) if ratio else model
    counted = cost(smaller, given.schema)
    values: dict[str, float] = {"num_params": counted.num_params, "num_macs": counted.num_macs}
    if metric not in values:
        exported = to_onnx(smaller, given.schema)
        values["size_bytes"] = len(exported)
        if latency is not None and metric.startswith("latency"):
            values |= latency(exported)
    return values
