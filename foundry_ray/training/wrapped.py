"""Any torch.optim.Optimizer with its state by slot and parameter name, there before the first step so that it can be restored.

An optimizer makes its state in its first step. So one step is taken on trial with gradients of zero, then the weights are put back; and
unless a state is restored, the first real step begins without what the trial left.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from foundry_ray.errors import ConfigError

_STEP = "step"
_SLOTS = {
    "exp_avg": "mean",
    "exp_avg_sq": "variance",
    "momentum_buffer": "momentum",
    "row_var": "row",
    "col_var": "column",
    "weights": "optimizer_weights",
    "average": "optimizer_average",
}
"""Slots of a checkpoint by the names that optimizers have for them; any other name is its own slot. The last two are taken already."""


class Wrapped:
    """An update rule that lets a torch.optim.Optimizer do the work, over whole parameters. See `UpdateRule`.

    Args:
        optimizer: Has taken no step yet. Its state is fp32 tensors per parameter, and a count named `step`.
        params: The parameters that it changes, by name.

    Raises:
        ConfigError: It keeps something else: that could be neither saved nor restored.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor]) -> None:
        self._optimizer = optimizer
        self._params = dict(params)
        self._num_steps = 0
        self._fresh = copy.deepcopy({name: dict(optimizer.state[param]) for name, param in params.items() if param in optimizer.state})
        options = _options(optimizer)
        _try_step(optimizer, list(params.values()))
        _check_state(optimizer, options)

    @property
    def num_steps(self) -> int:
        """Steps taken."""
        return self._num_steps

    def step(self, lr: float) -> None:
        """One step of all groups at one learning rate."""
        if self._num_steps == 0:
            self._optimizer.state.clear()
            self._optimizer.state.update({self._params[name]: state for name, state in self._fresh.items()})
        self._num_steps += 1
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()

    def slots(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Slot -> parameter name -> tensor; live until the next step."""
        slots: dict[str, dict[str, Tensor]] = {}
        for name, param in self._params.items():
            for key, value in self._optimizer.state[param].items():
                if key != _STEP and isinstance(value, Tensor):
                    slots.setdefault(_SLOTS.get(key, key), {})[name] = value
        return slots

    def load_num_steps(self, num_steps: int) -> None:
        """Go on as if so many steps had been taken."""
        self._num_steps = num_steps
        for state in self._optimizer.state.values():
            count = state.get(_STEP)
            if isinstance(count, Tensor):
                count.fill_(num_steps)
            elif count is not None:
                state[_STEP] = type(count)(num_steps)


@torch.no_grad()
def _try_step(optimizer: torch.optim.Optimizer, params: list[Tensor]) -> None:
    """Let the optimizer make its state; weights and gradients are afterwards as they were."""
    before = [(param, param.clone(), param.grad) for param in params]
    for param in params:
        param.grad = torch.zeros_like(param)
    try:
        optimizer.step()
    finally:
        for param, weights, grad in before:
            param.copy_(weights)
            param.grad = grad


def _options(optimizer: torch.optim.Optimizer) -> list[dict[str, str]]:
    return [{key: repr(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def _check_state(optimizer: torch.optim.Optimizer, options: list[dict[str, str]]) -> None:
    """Refuse what a checkpoint could not hold; `options` are the groups' options before the step on trial."""
    groups = zip(options, _options(optimizer), strict=True)
    lost = [f"`{key}` in its parameter groups" for old, new in groups for key in new if new[key] != old.get(key)]
    for state in optimizer.state.values():
        lost += [f"`{key}`, {_described(value)}" for key, value in state.items() if key != _STEP and not _is_kept(value)]
    if lost:
        message = f"the optimizer {type(optimizer).__name__} keeps {lost[0]}, wanted contiguous fp32 tensors per parameter alone."
        raise ConfigError(message, hint="its training could not be resumed: set `train.optimizer` to another one.")


def _is_kept(value: object) -> bool:
    return value is None or (isinstance(value, Tensor) and value.dtype is torch.float32 and value.is_contiguous())


def _described(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
