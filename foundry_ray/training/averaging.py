"""Averages: over the steps (what is judged and shipped, where `ema_decay` is on), and of batch-norm statistics over the ranks.

Batch-norm statistics are averaged like the weights: they belong to the averaged weights and not to the last ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foundry_ray.protocols import Engine


class Averaged:
    """Averaged copy of a model.

    Args:
        model: A copy that this object may keep; it becomes `self.model`.
        decay: Share of the old average that a late step keeps; early steps keep (1 + step) / (10 + step), so that the start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model.requires_grad_(False).eval()
        self._decay = decay
        self._floats, self._others = _tensors(self.model)

    @torch.no_grad()
    def update(self, live: nn.Module, step: int) -> None:
        """Take one step's weights in; `step` counts from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        floats, others = _tensors(live)
        torch._foreach_lerp_(self._floats, floats, 1 - decay)
        for mine, theirs in zip(self._others, others, strict=True):
            mine.copy_(theirs)


def _tensors(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Floating-point tensors, and the counters beside them."""
    tensors = [param.detach() for param in model.parameters()] + list(model.buffers())
    return [one for one in tensors if one.is_floating_point()], [one for one in tensors if not one.is_floating_point()]


def average_buffers(model: nn.Module, engine: Engine) -> None:
    """Replace the floating-point buffers of a model by their mean over all ranks."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    values = torch.cat([buffer.flatten() for buffer in buffers]).tolist()
    mean = torch.tensor(engine.reduce_sum(values), dtype=torch.float64) / engine.world_size
    for buffer, part in zip(buffers, torch.split(mean, [buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.reshape(buffer.shape))
