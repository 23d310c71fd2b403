"""One process that owns the weights, the optimizer and the precision: the engine of trials, and the reference for all others.

Shapes: B batch, the rest is the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from foundry_ray.config import LossScaleConfig, TrainConfig
from foundry_ray.protocols import Fragment
from foundry_ray.training.convolutions import avoid_unsound_kernel
from foundry_ray.training.heap import keep_freed_blocks
from foundry_ray.training.loss_scale import LossScale
from foundry_ray.training.optimizers import update_rule
from foundry_ray.training.precision import autocast, channels_last, in_fp32, resolve_precision


class TorchEngine:
    """Plain torch on one device. Cheap to construct: a millisecond for a small model, and no torch._dynamo.

    Weights are fp32; matrix products run in the resolved precision under autocast.

    Args:
        model: Trained in place; moved to `device`.
        train: Optimizer, weight decay, clipping and precision.
        device: `cpu` or `cuda:<index>`.
        accumulation: Micro-batches per step.
        compile: Compile the training pass with torch.compile.
        activation_checkpointing: Compute activations twice and keep fewer.
        loss_scale: Of fp16.
    """

    rank = 0
    world_size = 1

    def __init__(
        self,
        model: nn.Module,
        train: TrainConfig,
        *,
        device: str = "cpu",
        accumulation: int = 1,
        compile: bool = False,
        activation_checkpointing: bool = False,
        loss_scale: LossScaleConfig | None = None,
    ) -> None:
        self.model = in_fp32(model, device)
        avoid_unsound_kernel(self.model, device)
        if device == "cpu":
            keep_freed_blocks()
        self.device = device
        self._norm = torch.zeros(())
        self._dtype = resolve_precision(train.precision, device)
        self._params = [param for param in self.model.parameters() if param.requires_grad]
        self._rule = update_rule(self.model, train)
        self._max_norm = train.grad_clip or float("inf")
        self._accumulation = accumulation
        self._scale = LossScale(loss_scale or LossScaleConfig()) if self._dtype is torch.float16 else None
        if activation_checkpointing:
            from foundry_ray.training.activations import checkpoint_activations

            checkpoint_activations(self.model)
        self._forward = cast("Callable[[Tensor], Tensor]", torch.compile(self.model) if compile else self.model)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs in fp32, computed in the resolved precision."""
        with autocast(self.device, self._dtype):
            outputs = self._forward(channels_last(inputs))
        return outputs.float()

    @torch.inference_mode()
    def evaluate(self, inputs: Tensor) -> Tensor:
        """Outputs in eval mode, in fp32 throughout."""
        was_training = self.model.training
        self.model.eval()
        outputs: Tensor = self.model(channels_last(inputs))
        self.model.train(was_training)
        return outputs.float()

    def backward(self, loss: Tensor) -> None:
        """Add one micro-batch's share of the gradient."""
        factor = (self._scale.value if self._scale else 1.0) / self._accumulation
        torch.autograd.backward(loss * factor if factor != 1.0 else loss)

    def step(self, lr: float) -> bool:
        """Clip and change the weights; False, and the weights stay, where the gradient is no number (on a GPU: of fp16 alone)."""
        if self._scale:
            torch._foreach_mul_([param.grad for param in self._params if param.grad is not None], 1 / self._scale.value)
        self._norm = nn.utils.clip_grad_norm_(self._params, self._max_norm)
        is_good = bool(self._norm.isfinite()) if self._scale or self.device == "cpu" else True  # a GPU would have to be waited for
        if self._scale:
            self._scale.update(is_finite=is_good, step=self._rule.num_steps)
        if is_good:
            self._rule.step(lr)
        for param in self._params:
            param.grad = None
        return is_good

    @property
    def grad_norm(self) -> float:
        """Norm of the last step's gradient, before clipping."""
        return float(self._norm)

    def reduce(self, values: Sequence[float], *, mode: Literal["sum", "max"] = "sum") -> Sequence[float]:
        """The values of this one rank."""
        return list(values)

    def sync_buffers(self) -> None:
        """One rank: nothing to average."""

    def fragments(self) -> Sequence[Fragment]:
        """All parameters, and the optimizer's state by slot."""
        weights = [_whole("weights", name, param.detach()) for name, param in self.model.named_parameters()]
        states = [_whole(slot, name, tensor) for slot, tensors in self._rule.slots().items() for name, tensor in tensors.items()]
        return (*weights, *states)

    def refresh(self) -> None:
        """The fragments are the weights: nothing to bring in line."""

    def scalars(self) -> Mapping[str, float]:
        """Steps taken, and the state of fp16's loss scale."""
        return {"num_steps": float(self._rule.num_steps), **(self._scale.scalars() if self._scale else {})}

    def load_scalars(self, scalars: Mapping[str, float]) -> None:
        """Restore what `scalars` gave."""
        self._rule.load_num_steps(int(scalars["num_steps"]))
        if self._scale:
            self._scale.load(scalars)


def _whole(slot: str, name: str, tensor: Tensor) -> Fragment:
    return Fragment(slot=slot, name=name, start=0, total=tensor.numel(), tensor=tensor.view(-1), is_replicated=True)
