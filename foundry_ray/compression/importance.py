"""How much each unit of a coupling matters: one number per unit, by one of five criteria.

* `l2`, `l1`: the sum of squares, or of absolute values, of a channel's weights, the mean over the coupling's layers (the group norm of DepGraph,
  arXiv 2301.12900, section 3.3), relative to the coupling's mean.
* `bn_scale`: the absolute scale of the batch norms (arXiv 1708.06519), relative to the mean; couplings without one have no number.
* `taylor`: the squared first-order change of the loss where a channel is no longer read, the mean over batches (arXiv 1906.10771, equations 7
  and 8, for the gate behind a channel: the sum of gradient x weight over all weights that read it). It is in units of the loss, so it is
  comparable between couplings as it is.
* `random`: uniform in [0, 1), the control.

Legend: C channels of a coupling, U its units, F weights of one channel in one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from foundry_ray import tasks
from foundry_ray.compression.groups import Coupling, Member, requiring_grad
from foundry_ray.compression.prune_params import Criterion
from foundry_ray.compression.recurrent_cuts import RECURRENT
from foundry_ray.compression.rows import batches, drawn, labelled
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.models.modes import evaluating
from foundry_ray.protocols import Given

_TAYLOR_ROWS = 256
_TAYLOR_BATCH = 32
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


def importances(criterion: Criterion, couplings: Sequence[Coupling], model: nn.Module, given: Given) -> list[Tensor | None]:
    """The importance (U,) of each coupling's units, on the CPU; None where the criterion says nothing about a coupling.

    Raises:
        RecipeInfeasible: The criterion needs what is not there: training rows, a task, batch norms.
    """
    if criterion == "taylor":
        return [*_taylor(couplings, model, given)]
    if criterion == "random":
        generator = torch.Generator().manual_seed(given.seed)
        return [torch.rand(coupling.num_units, generator=generator) for coupling in couplings]
    if criterion == "bn_scale":
        channels = [_reduced(coupling, _batch_norm_scales(coupling)) for coupling in couplings]
        if not any(importance_C is not None for importance_C in channels):
            reason = f"criterion is bn_scale, but no channel of {type(model).__name__} that can be cut passes a batch norm"
            raise RecipeInfeasible(f"prune: {reason}.", hint="use `criterion: l2` or `taylor`.", reason=reason)
    else:
        channels = [_reduced(coupling, _norms(coupling, power=2 if criterion == "l2" else 1)) for coupling in couplings]
    return [
        None if importance_C is None else importance_C.cpu()[coupling.units_UM].mean(1)
        for coupling, importance_C in zip(couplings, channels, strict=True)
    ]


def _reduced(coupling: Coupling, parts: Iterator[tuple[Member, Tensor]]) -> Tensor | None:
    """The mean over layers, relative to the mean over channels, shape (C,)."""
    total_C: Tensor | None = None
    num_parts = 0
    for member, part in parts:
        if total_C is None:
            total_C = torch.zeros(coupling.width, device=part.device)
        total_C.scatter_add_(0, torch.tensor(member.roots, device=part.device), part.float())
        num_parts += 1
    if total_C is None:
        return None
    total_C /= num_parts
    mean = total_C.mean()
    return total_C / mean if mean > 0 else total_C


def _norms(coupling: Coupling, *, power: int) -> Iterator[tuple[Member, Tensor]]:
    for member in coupling.members:
        weights = _by_channel(member, torch.detach)
        if weights is not None:
            yield member, weights[list(member.positions)].abs().pow(power).sum(1)


def _batch_norm_scales(coupling: Coupling) -> Iterator[tuple[Member, Tensor]]:
    for member in coupling.members:
        if isinstance(member.layer, nn.modules.batchnorm._BatchNorm):
            yield member, member.layer.weight.detach()[list(member.positions)].abs()


def _by_channel(member: Member, of: Callable[[Tensor], Tensor]) -> Tensor | None:
    """What `of` gives for the weights of each channel of a layer, (channels, F); None for layers that are no measure of a channel (embeddings)."""
    layer = member.layer
    if isinstance(layer, _NORMS):
        return of(layer.weight)[:, None]
    if isinstance(layer, RECURRENT):
        return _of_recurrent(layer, member, of)
    if not isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
        return None
    weight = of(layer.weight).transpose(0, 1) if getattr(layer, "transposed", False) else of(layer.weight)
    if member.role != "reads":
        return weight.flatten(1)
    read = weight.transpose(0, 1).flatten(1)
    return read.repeat(layer.groups, 1) if isinstance(layer, nn.modules.conv._ConvNd) else read


def _of_recurrent(layer: nn.RNNBase, member: Member, of: Callable[[Tensor], Tensor]) -> Tensor:
    """All weights that make a hidden unit, direction by direction; or the first layer's columns that read an input."""
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    if member.role == "reads":
        return torch.cat([of(getattr(layer, f"weight_ih_l0{direction}")).transpose(0, 1) for direction in directions], dim=1)
    made = [
        torch.cat(
            [
                of(getattr(layer, f"weight_{source}_l{depth}{direction}"))
                .reshape(-1, layer.hidden_size, getattr(layer, f"weight_{source}_l{depth}{direction}").shape[1])
                .transpose(0, 1)
                .flatten(1)
                for depth in range(layer.num_layers)
                for source in ("ih", "hh")
            ],
            dim=1,
        )
        for direction in directions
    ]
    return torch.cat(made)


def _taylor(couplings: Sequence[Coupling], model: nn.Module, given: Given) -> list[Tensor | None]:
    """See the module's docstring. In evaluation mode: nothing is drawn, and batch norms are what they will be when served."""
    given = labelled(given)
    rows_N = drawn(given, num_rows=_TAYLOR_ROWS)
    if not given.task or len(rows_N) == 0:
        reason = "criterion is taylor, which needs training rows with labels and their task for gradients of the loss, but got none"
        raise RecipeInfeasible(f"prune: {reason}.", hint="give rows, or use `criterion: l2`.", reason=reason)
    totals = [torch.zeros(coupling.num_units) for coupling in couplings]
    num_batches = 0
    for gradients in _gradients(model, given, rows_N):
        num_batches += 1
        for coupling, total_U in zip(couplings, totals, strict=True):
            total_U += _change(coupling, gradients).cpu()[coupling.units_UM].sum(1).square()
    return [total_U / num_batches for total_U in totals]


def _gradients(model: nn.Module, given: Given, rows_N: np.ndarray) -> Iterator[Mapping[Tensor, Tensor | None]]:
    """Gradients of the loss of one batch after another, by parameter; `grad` and `requires_grad` stay as they are."""
    task = tasks.get(given.task)
    # cuDNN has no gradient of a recurrent layer in evaluation mode
    has_recurrence = any(isinstance(module, RECURRENT) for module in model.modules())
    with torch.enable_grad(), evaluating(model), requiring_grad(model), torch.backends.cudnn.flags(enabled=not has_recurrence):
        parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
        for inputs, labels_B in batches(model, given, rows_N, batch_size=_TAYLOR_BATCH):
            loss = task.loss(model(inputs).float(), labels_B)
            yield dict(zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def _change(coupling: Coupling, gradients: Mapping[Tensor, Tensor | None]) -> Tensor:
    """First-order change of the loss, but for its sign, where a channel is not read any more (not made, where no layer reads it), shape (C,)."""

    def _product(weight: Tensor) -> Tensor:
        gradient = gradients[weight]
        return torch.zeros_like(weight) if gradient is None else gradient * weight.detach()

    readers = [member for member in coupling.members if member.role == "reads"]
    change_C = torch.zeros(coupling.width)
    for member in readers or [member for member in coupling.members if member.role == "makes"]:
        products = _by_channel(member, _product)
        if products is not None:
            change_C.scatter_add_(0, torch.tensor(member.roots), products[list(member.positions)].sum(1).float().cpu())
    return change_C
