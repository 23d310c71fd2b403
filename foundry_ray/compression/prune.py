"""The step `prune`: whole channels, heads and layers are taken out where they matter least.

Channels that depend on each other (a residual stream, a convolution and its readers) are found and cut by DepGraph (arXiv 2301.12900,
the package torch-pruning; `groups`). Which ones go is decided here: by `importance`, relative to the mean of a group, and one threshold holds
for all groups unless `scope` says otherwise (`prune_plan`). The counts that remain are rounded to multiples of 8, because other counts run
slower than the unpruned layer (measured in int8 on a CPU: 12, 18 and 22 channels are 20-60 % slower than 16 and 24).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from foundry_ray.compression import steps
from foundry_ray.compression.prune_params import PruneParams
from foundry_ray.compression.prune_plan import num_kept_channels as num_kept_channels
from foundry_ray.config import IMPORT
from foundry_ray.protocols import Given
from foundry_ray.types import Scalar

if TYPE_CHECKING:
    from torch import nn


@steps.register("prune")
class Prune:
    """See the module's docstring."""

    kind = "prune"

    def check(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """See `Compressor.check`."""
        return steps.checked(PruneParams, params, kind=self.kind)

    def apply(self, model: nn.Module, params: Mapping[str, Scalar], *, given: Given) -> nn.Module:
        """See `Compressor.apply`. Ratios of 0, and those that round to nothing, leave the model as it is.

        Raises:
            RecipeInfeasible: Nothing can be taken out of this model, or it could not be stored afterwards.
        """
        wanted = PruneParams.model_validate(dict(self.check(params)))
        if wanted.asks_for_nothing:
            return model
        from foundry_ray import models
        from foundry_ray.compression.cutting import cut
        from foundry_ray.compression.recalibrate import recalibrate

        pruned = cut(model, wanted, given)
        if _num_params(pruned) == _num_params(model):
            return model
        if wanted.recalibrate:
            recalibrate(pruned, given)
        if str(getattr(pruned, "family", "")).startswith(IMPORT):
            models.describe(pruned)  # now, and not after a whole training: what cannot be described cannot be stored
        return pruned


def _num_params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
