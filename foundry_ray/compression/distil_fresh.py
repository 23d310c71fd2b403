"""A model of equal architecture that was never trained: where a student begins that inherits nothing."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from foundry_ray.errors import RecipeInfeasible

if TYPE_CHECKING:
    from torch import nn


def fresh(model: nn.Module, *, seed: int) -> nn.Module:
    """The model with weights that are drawn anew from the seed; the global seed stays as it is.

    What was not trained stays: the statistics of the data that the model normalises with, a table of its vocabulary. Running statistics of norms
    begin anew.

    Raises:
        RecipeInfeasible: Some weights belong to a module that does not say how it begins.
    """
    import torch

    from foundry_ray import models

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        is_of_family = isinstance(getattr(model, "family", None), str)
        result = models.rebuild(models.describe(model)) if is_of_family else _reset(copy.deepcopy(model))
    _keep_buffers(model, result)
    return result.to(next(model.parameters()).device).train(model.training)


def _reset(model: nn.Module) -> nn.Module:
    for name, module in model.named_modules():
        begin = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if begin is not None:
            begin()
        elif any(True for _ in module.parameters(recurse=False)):
            got = f"{type(module).__name__} {name!r}"
            raise RecipeInfeasible(
                f"recipe step distil: {got} has weights and no `reset_parameters`, so it cannot begin from scratch.",
                hint="give it that method, or set `distil.init: teacher`.",
                recipe="distil",
                reason="no fresh weights",
            )
    return model


def _keep_buffers(source: nn.Module, target: nn.Module) -> None:
    from torch.nn.modules.batchnorm import _NormBase

    there = dict(target.named_modules())
    for name, module in source.named_modules():
        if isinstance(module, _NormBase) or name not in there:
            continue
        buffers = dict(there[name].named_buffers(recurse=False))
        for key, buffer in module.named_buffers(recurse=False):
            if key in buffers and buffers[key].shape == buffer.shape:
                buffers[key].copy_(buffer)
