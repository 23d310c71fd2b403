"""Update rules as fused kernels over lists of tensors, cheap to build.

`torch.optim.Optimizer` imports torch._dynamo in its constructor (0.9 to 2 s in each fresh process); the functional forms of the
same rules do not, and compute the same bits. Decides: which tensors decay (matrices and kernels; biases and norms do not).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from foundry_ray.config import TrainConfig

ADAMW_BETAS = (0.9, 0.999)
ADAMW_EPS = 1e-8
SGD_MOMENTUM = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamGroup:
    """Tensors that share a weight decay."""

    params: tuple[nn.Parameter, ...]
    weight_decay: float


class UpdateRule(Protocol):
    """One optimizer's arithmetic and its state."""

    def step(self, lr: float) -> None:
        """Change the parameters by their gradients; parameters without one stay."""

    def state(self) -> dict[str, Tensor]:
        """The state by name: live tensors, in the order of the parameters."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Copy a state into the live tensors."""


def param_groups(model: nn.Module, weight_decay: float) -> tuple[ParamGroup, ...]:
    """The trainable parameters in two groups: those with two or more dimensions decay, biases and norms do not."""
    trainable = [param for param in model.parameters() if param.requires_grad]
    decayed = tuple(param for param in trainable if param.ndim > 1)
    kept = tuple(param for param in trainable if param.ndim <= 1)
    groups = (ParamGroup(params=decayed, weight_decay=weight_decay), ParamGroup(params=kept, weight_decay=0.0))
    return tuple(group for group in groups if group.params)


def update_rule(model: nn.Module, train: TrainConfig) -> UpdateRule:
    """The rule that `train.optimizer` names, over the parameters of `model`."""
    groups = param_groups(model, train.weight_decay)
    return AdamW(groups) if train.optimizer == "adamw" else MomentumSGD(groups)


class _ByGroup:
    """Steps group by group, over the parameters that have a gradient."""

    def __init__(self, groups: Sequence[ParamGroup]) -> None:
        self._groups = tuple(groups)

    def step(self, lr: float) -> None:
        for group in self._groups:
            params = [param for param in group.params if param.grad is not None]
            if params:
                self._update(params, group.weight_decay, lr)

    def _update(self, params: list[nn.Parameter], weight_decay: float, lr: float) -> None:
        """One step of one group."""
        raise AssertionError(f"{type(self).__name__} has no update rule")


class AdamW(_ByGroup):
    """Adam with decoupled weight decay (arXiv 1711.05101)."""

    def __init__(self, groups: Sequence[ParamGroup]) -> None:
        super().__init__(groups)
        params = [param for group in groups for param in group.params]
        self._mean = {param: torch.zeros_like(param) for param in params}
        self._variance = {param: torch.zeros_like(param) for param in params}
        self._steps = {param: torch.zeros((), dtype=torch.float32, device=param.device) for param in params}

    @torch.no_grad()
    def _update(self, params: list[nn.Parameter], weight_decay: float, lr: float) -> None:
        adamw(
            list(params),
            [param.grad for param in params if param.grad is not None],
            [self._mean[param] for param in params],
            [self._variance[param] for param in params],
            [],
            [self._steps[param] for param in params],
            fused=True,
            amsgrad=False,
            beta1=ADAMW_BETAS[0],
            beta2=ADAMW_BETAS[1],
            lr=lr,
            weight_decay=weight_decay,
            eps=ADAMW_EPS,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        return _numbered(mean=self._mean, variance=self._variance, steps=self._steps)

    def load_state(self, state: dict[str, Tensor]) -> None:
        _copy_into(self.state(), state)


class MomentumSGD(_ByGroup):
    """Stochastic gradient descent with Nesterov momentum 0.9 and coupled weight decay."""

    def __init__(self, groups: Sequence[ParamGroup]) -> None:
        super().__init__(groups)
        self._momentum = {param: torch.zeros_like(param) for group in groups for param in group.params}

    @torch.no_grad()
    def _update(self, params: list[nn.Parameter], weight_decay: float, lr: float) -> None:
        sgd(
            list(params),
            [param.grad for param in params if param.grad is not None],
            [self._momentum[param] for param in params],
            fused=True,
            weight_decay=weight_decay,
            momentum=SGD_MOMENTUM,
            lr=lr,
            dampening=0.0,
            nesterov=True,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        return _numbered(momentum=self._momentum)

    def load_state(self, state: dict[str, Tensor]) -> None:
        _copy_into(self.state(), state)


def _numbered(**slots: dict[nn.Parameter, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{index}": tensor for name, tensors in slots.items() for index, tensor in enumerate(tensors.values())}


@torch.no_grad()
def _copy_into(live: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    if live.keys() != saved.keys():
        raise ValueError(f"the optimizer state holds {len(saved)} tensors, wanted {len(live)} of this model and optimizer")
    for name, tensor in live.items():
        tensor.copy_(saved[name])
