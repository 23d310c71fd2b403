"""What DeepSpeed takes for an optimizer: groups of parameters, which it replaces by its flat partitions of them, and a step.

The arithmetic is that of the rules that TorchEngine steps by (`training.rules`), over whatever lies in the groups then: so both engines compute
equal bits, and `torch.optim.Optimizer` need not be constructed, which imports torch._dynamo (one CPU second in each new worker).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from foundry_ray.training.rules import ParamGroup

Groups = list[dict[str, Any]]


class Delegate(torch.optim.Optimizer):
    """Groups of parameters whose step is another's, who also keeps the state.

    Args:
        groups: The parameters as they are before DeepSpeed takes them.
    """

    def __init__(self, groups: Sequence[ParamGroup]) -> None:
        self.param_groups: Groups = [{"params": list(group.params.values()), "lr": 0.0} for group in groups]
        self.defaults: dict[str, Any] = {}
        self.state: defaultdict[Tensor, Any] = defaultdict(dict)
        self.stepper: Callable[[Groups], None] | None = None

    def set_lr(self, lr: float) -> None:
        """The learning rate of the next step."""
        for group in self.param_groups:
            group["lr"] = lr

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change what lies in the groups by its gradient."""
        assert closure is None, "DeepSpeed has no closure"
        assert self.stepper is not None, "DeepSpeed steps after the engine is made"
        self.stepper(self.param_groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of what lies in the groups."""
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = None
