"""The step `prune`: whole channels are taken out where they matter least over the entire network.

Channels that depend on each other (a residual stream, a convolution and its readers) are found and cut by DepGraph (arXiv 2301.12900,
the package torch-pruning). Which ones go is decided here: importance is the group's L2 norm, relative to the mean of its group, and
one threshold holds for all groups. The counts that remain are rounded to multiples of 8, because other counts run slower than
the unpruned layer (measured in int8 on a CPU: 12, 18 and 22 channels are 20-60 % slower than 16 and 24).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from foundry_ray.compression import steps
from foundry_ray.config import IMPORT, Section
from foundry_ray.protocols import Given
from foundry_ray.types import Scalar, Schema

if TYPE_CHECKING:
    from torch import Tensor, nn

CHANNEL_MULTIPLE = 8


class PruneParams(Section):
    """How much is cut."""

    ratio: float = Field(ge=0, le=0.95, description="Share of all channels that is taken out, before rounding.")


@steps.register("prune")
class Prune:
    """See the module's docstring."""

    kind = "prune"

    def check(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """See `Compressor.check`."""
        return steps.checked(PruneParams, params, kind=self.kind)

    def apply(self, model: nn.Module, params: Mapping[str, Scalar], *, given: Given) -> nn.Module:
        """See `Compressor.apply`. Changes `model` itself; a ratio of 0 leaves it as it is. Raises RecipeInfeasible for an imported model."""
        from foundry_ray import models

        ratio = float(self.check(params)["ratio"])
        if ratio > 0:
            _cut(model, given.schema, ratio)
            if str(getattr(model, "family", "")).startswith(IMPORT):
                models.describe(model)  # now, and not after a whole training: what cannot be described cannot be stored
        return model


def _cut(model: nn.Module, schema: Schema, ratio: float) -> None:
    import torch
    import torch_pruning

    was_training = model.training
    device = next(model.parameters()).device
    graph = torch_pruning.DependencyGraph().build_dependency(model.eval(), torch.zeros((1, *schema.shape), device=device))
    measure = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    groups = list(graph.get_all_groups(ignored_layers=list(_kept_whole(model)), root_module_types=[torch.nn.Conv2d, torch.nn.Linear]))
    importances = [measure(group).detach().cpu() for group in groups]
    for group, importance_C, num_kept in zip(groups, importances, num_kept_channels(importances, ratio), strict=True):
        weakest = torch.argsort(importance_C, stable=True)[: len(importance_C) - num_kept].tolist()
        if weakest:
            graph.get_pruning_group(*_root(group), idxs=weakest).prune()
    model.train(was_training)


def num_kept_channels(importances: Sequence[Tensor], ratio: float) -> list[int]:
    """How many channels each group keeps: those above the global threshold, to the nearest multiple of 8, and never fewer than 8.

    A group that begins with 8 or fewer is left whole. More channels are never kept at a larger ratio.
    """
    import torch

    threshold = torch.quantile(torch.cat(list(importances)).double(), ratio).item()
    return [_rounded(int((importance_C.double() >= threshold).sum()), len(importance_C)) for importance_C in importances]


def _rounded(wanted: int, present: int) -> int:
    if wanted == present:
        return present
    return min(present, max(CHANNEL_MULTIPLE, int(wanted / CHANNEL_MULTIPLE + 0.5) * CHANNEL_MULTIPLE))


def _kept_whole(model: nn.Module) -> Sequence[nn.Module]:
    """The classifier, whose outputs are the classes."""
    from torch import nn

    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]


def _root(group: Any) -> tuple[Any, Any]:
    """What a group is named by in the dependency graph: its first layer and how that one is cut."""
    return group[0].dep.target.module, group[0].dep.handler
