"""Lion (arXiv 2302.06675, algorithm 2): steps of one size in the sign of an average of the gradient, so it keeps one number per weight.

Decides: the arithmetic, once for both faces: the functional form, and the optimizer that DeepSpeed drives. Every operation is element-wise,
so that a shard of the weights gets what the whole would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


@torch.no_grad()
def lion_(params: list[Tensor], grads: list[Tensor], momenta: list[Tensor], *, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
    """One step in place: u = sign(b1 m + (1 - b1) g), w = (1 - lr * decay) w - lr u, m = b2 m + (1 - b2) g.

    Args:
        params: Weights w.
        grads: Their gradients g.
        momenta: Their averages m.
        lr: Learning rate; a third to a tenth of AdamW's is usual, with three to ten times its decay.
        betas: b1 of the step and b2 of the average that is kept; the paper's are 0.9 and 0.99.
        weight_decay: Decoupled.
    """
    signs = torch._foreach_mul(momenta, betas[0])
    torch._foreach_add_(signs, grads, alpha=1 - betas[0])
    torch._foreach_sign_(signs)
    if weight_decay:
        torch._foreach_mul_(params, 1 - lr * weight_decay)
    torch._foreach_add_(params, signs, alpha=-lr)
    torch._foreach_mul_(momenta, betas[1])
    torch._foreach_add_(momenta, grads, alpha=1 - betas[1])


class Lion(torch.optim.Optimizer):
    """Lion as a torch optimizer; the state of a parameter is `momentum_buffer`.

    Args:
        params: Parameters or groups of them; a group may have a `weight_decay` of its own.
        lr: Learning rate.
        betas: See `lion_`.
        weight_decay: Decoupled.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, object]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of the parameters that have a gradient. Returns what `closure` gives, called with gradients on."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = [param for param in group["params"] if param.grad is not None]
            if params:
                grads = [param.grad for param in params if param.grad is not None]
                momenta = [self._momentum(param) for param in params]
                lion_(params, grads, momenta, lr=group["lr"], betas=group["betas"], weight_decay=group["weight_decay"])
        return loss

    def _momentum(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
        momentum: Tensor = state["momentum_buffer"]
        return momentum
