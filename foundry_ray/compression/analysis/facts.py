"""What an analysis says. Frozen, and JSON through `to_json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """One layer with parameters, or one kind of operator of the served graph that belongs to no layer (then `name` is empty).

    Attributes:
        num_macs: Multiply-accumulates of one sample.
        num_bytes: Of its parameters, as they are now.
        latency_ratio: Its share of the graph's time, in [0, 1]; None where nobody measured.
    """

    name: str
    kind: str
    num_params: int
    num_macs: int
    num_bytes: int
    latency_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """Channels that can only be cut together.

    Attributes:
        name: The layer that makes them, or the one that reads the heads and `:heads`.
        layers: All that lose something with each channel.
        num_channels: Channels.
        num_units: What goes as one: a channel, a channel of each block, a head.
        is_heads: The units are heads of an attention.
        kept_because: Why none can go; empty where they can.
    """

    name: str
    layers: tuple[str, ...]
    num_channels: int
    num_units: int
    is_heads: bool
    kept_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The primary metric on held-back training rows after one group or layer alone was compressed; nothing was trained.

    Attributes:
        name: Of the group or the layer.
        how: "prune" or "int8".
        ratio: Share of the group's units that went; 0 for int8.
        accuracy: The primary metric then.
    """

    name: str
    how: str
    ratio: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """The smallest `prune` ratio, in steps of 0.05, whose model keeps a limit.

    Attributes:
        limit: As it was asked for.
        ratio: None where not even the largest ratio keeps it.
        values: Costs at that ratio, or at the largest.
    """

    limit: str
    ratio: float | None
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Of one model.

    Attributes:
        accuracy: The primary metric on `num_rows` held-back training rows; None where there are none.
        latency_ms: Of one sample through the served graph, profiled, so longer than without a profiler; None where it was not exported.
        notes: What could not be looked at, and why.
    """

    family: str
    num_params: int
    num_macs: int
    num_bytes: int
    layers: tuple[LayerFacts, ...]
    groups: tuple[GroupFacts, ...]
    accuracy: float | None = None
    num_rows: int = 0
    latency_ms: float | None = None
    sensitivities: tuple[Sensitivity, ...] = ()
    reached: tuple[Reached, ...] = ()
    notes: tuple[str, ...] = ()


class Limit(Protocol):
    """A limit on a cost, such as `num_macs <= 5e6`."""

    @property
    def metric(self) -> str:
        """`num_params`, `num_macs`, `size_bytes`, `latency_p50_ms` or `latency_p95_ms`."""

    def excess(self, value: float) -> float:
        """By how much a value breaks it; 0.0 where it holds."""
