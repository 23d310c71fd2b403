"""What a model loses where one group of channels or one layer alone is compressed: the primary metric on training rows that nothing else saw.

Channels go by their L2 norm; batch norms are recalibrated; nothing is trained, so a loss is what recovery training has to win back. In int8 the
weights of a layer have one scale per output channel, and its inputs the range of the rows at hand.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundry_ray import tasks
from foundry_ray.compression.analysis.facts import Sensitivity
from foundry_ray.compression.cutting import cut_one
from foundry_ray.compression.groups import Coupling
from foundry_ray.compression.importance import importances
from foundry_ray.compression.prune_plan import weakest
from foundry_ray.compression.recalibrate import recalibrate
from foundry_ray.compression.rows import batches, only
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.models.modes import evaluating
from foundry_ray.protocols import Given

_BATCH = 128
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def split_rows(given: Given, num_held: int) -> tuple[Given, Given]:
    """Rows to recalibrate with, and `num_held` others to judge on (half of all, where there are few). Drawn by the seed."""
    assert given.inputs_N is not None, "asked of rows alone"
    order_N = np.random.default_rng(given.seed).permutation(len(given.inputs_N))
    held_N, seen_N = np.split(order_N, [min(num_held, len(order_N) // 2)])
    return only(given, np.sort(seen_N)), only(given, np.sort(held_N))


def accuracy(model: nn.Module, held: Given) -> float:
    """The task's primary metric, in evaluation mode."""
    assert held.inputs_N is not None, "asked of rows alone"
    task, scores = tasks.get(held.task), []
    with torch.no_grad(), evaluating(model):
        for inputs, labels_B in batches(model, held, np.arange(len(held.inputs_N)), batch_size=_BATCH):
            scores.append(task.correct(model(inputs).float().cpu().numpy(), labels_B.cpu().numpy()))
    return float(np.concatenate(scores).mean())


def of_groups(model: nn.Module, couplings: Sequence[Coupling], ratios: Sequence[float], seen: Given, held: Given) -> Iterator[Sensitivity]:
    """Of each coupling that can be cut, and each ratio. Couplings that break the model say nothing here."""
    able = [coupling for coupling in couplings if not coupling.kept_because and coupling.num_units > 1]
    for coupling, importance_U in zip(able, importances("l2", able, model, seen), strict=True):
        for ratio in ratios if importance_U is not None else ():
            assert importance_U is not None, "asked before"
            smaller = copy.deepcopy(model)
            units = weakest(importance_U, max(1, int(coupling.num_units * (1 - ratio) + 0.5)))
            try:
                cut_one(smaller, coupling.name, units, seen)
            except RecipeInfeasible:
                break
            recalibrate(smaller, seen)
            yield Sensitivity(name=coupling.name, how="prune", ratio=ratio, accuracy=accuracy(smaller, held))


def of_int8(model: nn.Module, held: Given) -> Iterator[Sensitivity]:
    """Of each convolution and linear layer in int8 alone."""
    for name, layer in model.named_modules():
        if isinstance(layer, _WEIGHTED):
            with _in_int8(layer):
                yield Sensitivity(name=name, how="int8", ratio=0.0, accuracy=accuracy(model, held))


@contextmanager
def _in_int8(layer: nn.Module) -> Iterator[None]:
    """Within, the layer's weights and inputs are on grids of 8 bits (arXiv 1712.05877)."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    before = weight.detach().clone()
    scale_O = (before.flatten(1).abs().amax(1) / 127).clamp(min=1e-12).reshape(-1, *[1] * (before.dim() - 1))
    with torch.no_grad():
        weight.copy_((before / scale_O).round() * scale_O)
    handle = layer.register_forward_pre_hook(_on_grid)
    try:
        yield
    finally:
        handle.remove()
        with torch.no_grad():
            weight.copy_(before)


def _on_grid(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x = inputs[0]
    low, high = min(0.0, x.min().item()), max(0.0, x.max().item())
    scale = max(high - low, 1e-12) / 255
    return (torch.fake_quantize_per_tensor_affine(x.float(), scale, round(-low / scale), 0, 255).to(x.dtype), *inputs[1:])
