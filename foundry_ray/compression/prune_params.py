"""What the step `prune` can be told. Needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from foundry_ray.config import Section

CHANNEL_MULTIPLE = 8

Criterion = Literal["l2", "l1", "bn_scale", "taylor", "random"]
Scope = Literal["global", "group"]


class PruneParams(Section):
    """How much is cut, and by what measure."""

    ratio: float = Field(0.0, ge=0, le=0.95, description="Share of all channels that is taken out, before rounding.")
    scope: Scope = Field("global", description="global: one threshold over all groups of channels; group: each group loses the same share.")
    criterion: Criterion = Field("l2", description="What tells which channels matter; random is the control, taylor looks at training rows.")
    iterations: int = Field(1, ge=1, le=32, description="Slices in which channels are taken out; importance is measured anew after each.")
    round_to: int = Field(CHANNEL_MULTIPLE, ge=1, le=256, description="Counts that remain are multiples of this; 1 rounds nothing.")
    heads_ratio: float = Field(0.0, ge=0, le=0.95, description="Share of all attention heads that is taken out; each attention keeps one.")
    layers_ratio: float = Field(0.0, ge=0, le=0.95, description="Share of the residual layers that is left out whole, by their influence on rows.")
    recalibrate: bool = Field(True, description="Take batch-norm statistics anew from training rows, where there are any.")

    @property
    def asks_for_nothing(self) -> bool:
        """Whether the model stays as it is."""
        return not (self.ratio or self.heads_ratio or self.layers_ratio)

    @property
    def choice(self) -> dict[str, str | int | bool]:
        """What tells which weights stay, and in which state, beside how many: students of the same shapes that differ in it are different ones."""
        return self.model_dump(include={"criterion", "iterations", "recalibrate"}, exclude_defaults=True)
