"""Averages: of the weights over the steps (what is judged and shipped, where `ema_decay` is on), and of batch-norm statistics over the ranks.

Each rank averages the pieces of the weights that it holds, whatever the ZeRO stage, so no rank ever needs the whole. Batch-norm statistics
are averaged like the weights: they belong to the averaged weights and not to the last ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from foundry_ray.protocols import Engine

AVERAGE = "average"


class Averaged:
    """The average of what an engine trains.

    Args:
        engine: Its weights as they are now are the first average.
        decay: Share of the old average that a late step keeps; early steps keep (1 + step) / (10 + step), so that the start is forgotten.
    """

    @torch.no_grad()
    def __init__(self, engine: Engine, decay: float) -> None:
        self._engine = engine
        self._decay = decay
        self._live = [fragment.tensor for fragment in engine.fragments() if fragment.slot == "weights"]
        self.fragments = tuple(
            replace(fragment, slot=AVERAGE, tensor=fragment.tensor.clone()) for fragment in engine.fragments() if fragment.slot == "weights"
        )
        self._mine = [fragment.tensor for fragment in self.fragments]
        self.buffers = {name: buffer.clone() for name, buffer in engine.model.named_buffers()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take one step's weights in; `step` counts from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        if self._mine:
            torch._foreach_lerp_(self._mine, self._live, 1 - decay)
        for name, buffer in self._engine.model.named_buffers():
            if buffer.is_floating_point():
                self.buffers[name].lerp_(buffer, 1 - decay)
            else:
                self.buffers[name].copy_(buffer)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The averaged weights by name, live and in their shapes, of an engine that holds all of them."""
        shapes = {name: param.shape for name, param in self._engine.model.named_parameters()}
        return {fragment.name: fragment.tensor.view(shapes[fragment.name]) for fragment in self.fragments}

    @torch.no_grad()
    def evaluate(self, inputs: Tensor) -> Tensor:
        """What the model answers with the average, in eval mode; the engine's weights stay where they are, and it holds all of them."""
        model = self._engine.model
        was_training = model.training
        outputs: Tensor = torch.func.functional_call(model.eval(), {**self.tensors, **self.buffers}, (inputs,))
        model.train(was_training)
        return outputs

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While this lasts, the engine computes with the average; afterwards with its own weights again, to the bit. All ranks enter it.

        An error ends the training and leaves the average in place: the way back is collective, and the other ranks are elsewhere.
        """
        self._exchange()
        yield
        self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for mine, live in zip(self._mine, self._live, strict=True):
            _swap(mine, live)
        for name, buffer in self._engine.model.named_buffers():
            _swap(self.buffers[name], buffer)
        self._engine.refresh()

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Write the average into a model of the same names, from an engine that holds all of it."""
        _fill(dict(model.named_parameters()), {fragment.name: fragment.tensor for fragment in self.fragments})
        _fill(dict(model.named_buffers()), self.buffers)


def _swap(one: Tensor, other: Tensor) -> None:
    kept = one.clone()
    one.copy_(other)
    other.copy_(kept)


def _fill(into: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        into[name].copy_(tensor.view_as(into[name]))


@torch.no_grad()
def average_buffers(buffers: Mapping[str, Tensor], engine: Engine) -> None:
    """Replace floating-point tensors by their mean over all ranks."""
    floats = [buffer for buffer in buffers.values() if buffer.is_floating_point()]
    if not floats or engine.world_size == 1:
        return
    values = torch.cat([buffer.flatten() for buffer in floats]).tolist()
    mean = torch.tensor(engine.reduce(values), dtype=torch.float64) / engine.world_size
    for buffer, part in zip(floats, torch.split(mean, [buffer.numel() for buffer in floats]), strict=True):
        buffer.copy_(part.reshape(buffer.shape))
