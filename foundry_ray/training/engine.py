"""One process that owns the weights, the optimizer and the precision: the engine of trials, and the reference for all others.

Shapes: B batch, C channels or classes, H height, W width.
"""

from __future__ import annotations

import copy
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypedDict, runtime_checkable

import torch
from torch import Tensor, nn

from foundry_ray.config import TrainConfig
from foundry_ray.protocols import Engine
from foundry_ray.training.optimizers import update_rule
from foundry_ray.training.precision import autocast, channels_last, resolve_precision

_FILE = "engine.pt"


class EngineState(TypedDict):
    """What an engine must remember to go on exactly: live tensors, not copies."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


@runtime_checkable
class InProcessEngine(Engine, Protocol):
    """An engine whose whole state fits one process."""

    def state(self) -> EngineState:
        """The live tensors of the model and the optimizer."""

    def load_state(self, state: EngineState) -> None:
        """Copy a state into the live tensors."""


class TorchEngine:
    """Plain torch on one device. Cheap to construct: a millisecond for a small model, and no torch._dynamo.

    Args:
        model: Trained in place; moved to `device`.
        train: Optimizer, weight decay, clipping and precision.
        device: `cpu` or `cuda:<index>`.
    """

    rank = 0
    world_size = 1

    def __init__(self, model: nn.Module, train: TrainConfig, *, device: str = "cpu") -> None:
        self.model = model.to(device)
        self.device = device
        self._norm = torch.zeros(())
        self._dtype = resolve_precision(train.precision, device)
        self._params = [param for param in self.model.parameters() if param.requires_grad]
        self._rule = update_rule(self.model, train)
        self._max_norm = train.grad_clip or float("inf")
        self._lr = train.lr

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, C) in fp32 of float images, computed in the resolved precision."""
        with autocast(self.device, self._dtype):
            logits_BC: Tensor = self.model(channels_last(images_BCHW))
        return logits_BC.float()

    def step(self, loss: Tensor) -> None:
        """Backward pass, clipping, one optimizer step."""
        torch.autograd.backward(loss)
        self._norm = nn.utils.clip_grad_norm_(self._params, self._max_norm)
        self._rule.step(self._lr)
        for param in self._params:
            param.grad = None

    @property
    def grad_norm(self) -> float:
        """Norm of the last step's gradient, before clipping."""
        return float(self._norm)

    def set_lr(self, lr: float) -> None:
        """The learning rate of the next step."""
        self._lr = lr

    def reduce_sum(self, values: Sequence[float]) -> Sequence[float]:
        """The sum over this one rank."""
        return list(values)

    def sync_buffers(self) -> None:
        """One rank: nothing to average."""

    def snapshot(self) -> nn.Module:
        """A copy of the model as it is now."""
        return copy.deepcopy(self.model)

    def state(self) -> EngineState:
        """The live tensors of the model and the optimizer."""
        return {"model": self.model.state_dict(), "optimizer": self._rule.state()}

    def load_state(self, state: EngineState) -> None:
        """Copy a state into the live tensors. Raises ValueError or RuntimeError where it is another model's."""
        self.model.load_state_dict(state["model"])
        self._rule.load_state(state["optimizer"])

    def save(self, directory: Path) -> None:
        """Write `engine.pt`."""
        torch.save(self.state(), directory / _FILE)

    def load(self, directory: Path) -> None:
        """Restore what `save` wrote."""
        self.load_state(typing.cast(EngineState, torch.load(directory / _FILE, map_location=self.device, weights_only=True)))
