"""One rank of a DeepSpeed job as an Engine.

Decides: how DeepSpeed is started, who scales and clips (at ZeRO 0 this engine, above it DeepSpeed), and when a step counts. Weights are fp32 and
products run under autocast, exactly as in TorchEngine, so both learn alike; with `weights: precision` they are cast, and DeepSpeed keeps sharded
fp32 copies. No JIT: neither the shared-memory all-reduce nor a compiled Adam is built, which would cost minutes of g++ on the first start.
"""

from __future__ import annotations

import contextlib
import io
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from foundry_ray.config import TeacherConfig
from foundry_ray.errors import ConfigError
from foundry_ray.protocols import Fragment, Reporter
from foundry_ray.runtime.env import apply_for_deepspeed
from foundry_ray.training.activations import checkpoint_activations
from foundry_ray.training.averaging import average_buffers
from foundry_ray.training.convolutions import avoid_unsound_kernel
from foundry_ray.training.deepspeed.config import Precision, check_deepspeed, deepspeed_config
from foundry_ray.training.deepspeed.fragments import Holding, Replicated, Sharded
from foundry_ray.training.deepspeed.loading import check_disks, prepare
from foundry_ray.training.deepspeed.optimizer import Delegate
from foundry_ray.training.heap import keep_freed_blocks, return_large_blocks
from foundry_ray.training.loss_scale import LossScale
from foundry_ray.training.optimizers import param_groups
from foundry_ray.training.precision import autocast, channels_last, in_fp32, resolve_precision
from foundry_ray.training.shape import Shape
from foundry_ray.types import Json

_NAMES: dict[torch.dtype, Precision] = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_STEPS = "deepspeed_steps"
_SKIPPED = "deepspeed_skipped_steps"


class DeepSpeedEngine:
    """One rank of a DeepSpeed job. The process group exists already, and every rank builds the same model.

    Args:
        model: Trained in place; moved to `device`, and taken apart at ZeRO 3.
        config: What is trained and how.
        shape: Workers, micro-batch, accumulation and ZeRO stage, which may differ from the configured ones.
        device: `cpu` or `cuda:<index>`.
        reporter: Warned where a setting changes nothing.

    Raises:
        ConfigError: DeepSpeed cannot do what is asked for, or there are other than the shape's workers.
    """

    def __init__(self, model: nn.Module, config: TeacherConfig, shape: Shape, *, device: str, reporter: Reporter) -> None:
        check_deepspeed(config, zero_stage=shape.zero_stage)
        apply_for_deepspeed(device)
        self.rank = torch.distributed.get_rank()
        self.world_size = torch.distributed.get_world_size()
        self.device = device
        self._stage = shape.zero_stage
        self._accumulation = shape.accumulation
        self._num_passes = 0
        self._num_steps = 0
        self._norm: Tensor | float = float("nan")
        self._max_norm = config.train.grad_clip or float("inf")
        dtype = resolve_precision(config.train.precision, device)
        self._scale = LossScale(config.deepspeed.loss_scale) if dtype is torch.float16 else None
        if device == "cpu":
            return_large_blocks() if shape.zero_stage == 3 else keep_freed_blocks()
        is_cast = config.deepspeed.weights == "precision" and dtype is not torch.float32
        if is_cast:
            check_castable(model)
        self.model = in_fp32(model, "cpu" if is_cast else device)  # what is cast goes to the device in half the bytes
        avoid_unsound_kernel(self.model, device)
        _warn(config, self.model, dtype, reporter)
        self._params = [param for param in self.model.parameters() if param.requires_grad]
        module = _Module(self.model, device, dtype, is_cast=is_cast, compiled=config.compile)
        self._start(module, config, shape, dtype)
        self._tell_scale()

    def _start(self, module: nn.Module, config: TeacherConfig, shape: Shape, dtype: torch.dtype) -> None:
        num_params = sum(param.numel() for param in self.model.parameters())
        settings = deepspeed_config(config, shape, precision=_NAMES[dtype], has_gpu=self.device.startswith("cuda"), num_params=num_params)
        groups = param_groups(self.model, config.train)
        self._optimizer = Delegate(groups)
        self._engine = _initialize(module, self._optimizer, settings)
        self._holding: Holding = (
            Sharded(self.model, self._engine.optimizer, groups, config.train, stage=shape.zero_stage, rank=self.rank)
            if shape.zero_stage
            else Replicated(self.model, config.train)
        )
        self._optimizer.stepper = self._holding.step
        self._engine.train()

    @property
    def grad_norm(self) -> float:
        """Norm of the last step's gradient over all ranks, before clipping; infinite where it overflowed, not a number before the first step."""
        return float(self._norm)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs in fp32, for training, computed in the resolved precision."""
        return typing.cast(Tensor, self._engine(channels_last(inputs)))

    @torch.no_grad()
    def evaluate(self, inputs: Tensor) -> Tensor:
        """Outputs in fp32 in eval mode; in fp32 throughout where the weights are."""
        self._engine.eval()
        try:
            return typing.cast(Tensor, self._engine(channels_last(inputs)))
        finally:
            self._engine.train()

    def backward(self, loss: Tensor) -> None:
        """Add one micro-batch's share of the gradient; with the last one of a step, reduce it over the ranks."""
        self._num_passes += 1
        is_scaled_here = self._scale is not None and self._stage == 0
        self._engine.backward(loss * self._scale.value if is_scaled_here and self._scale else loss)
        if self._num_passes < self._accumulation:
            self._engine.step()  # counts the pass; DeepSpeed changes nothing before the last one

    def step(self, lr: float) -> bool:
        """Clip, change the weights, forget the gradient. False where the gradient was not finite, and the weights stayed as they were."""
        self._optimizer.set_lr(lr)
        is_applied = self._step_sharded() if self._stage else self._step_replicated()
        self._num_passes = 0
        self._num_steps += is_applied
        if self._scale:
            self._scale.update(is_finite=is_applied, step=self._engine.global_steps)
            self._tell_scale()
        return is_applied

    def _step_sharded(self) -> bool:
        self._engine.step()
        self._norm = self._engine.get_global_grad_norm()
        return bool(self._engine.was_step_applied())

    def _step_replicated(self) -> bool:
        """DeepSpeed has averaged the gradient by now. Here it neither clips nor looks for overflow."""
        if self._scale:
            torch._foreach_mul_([param.grad for param in self._params if param.grad is not None], 1 / self._scale.value)
        norm = nn.utils.clip_grad_norm_(self._params, self._max_norm)
        self._norm = norm
        if norm.isfinite():
            self._engine.step()
            return True
        self._engine.zero_grad()
        self._engine.micro_steps += 1
        self._engine.global_steps += 1
        self._engine.skipped_steps += 1
        return False

    def _tell_scale(self) -> None:
        if self._scale and self._stage:
            self._engine.optimizer.override_loss_scale(self._scale.value)

    def reduce(self, values: Sequence[float], *, mode: Literal["sum", "max"] = "sum") -> Sequence[float]:
        """Element-wise sum or maximum over all ranks, in float64."""
        total = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total, op=torch.distributed.ReduceOp.MAX if mode == "max" else torch.distributed.ReduceOp.SUM)
        return typing.cast("list[float]", total.tolist())

    def sync_buffers(self) -> None:
        """Average floating-point buffers (batch-norm statistics) over all ranks."""
        average_buffers(dict(self.model.named_buffers()), self)

    def fragments(self) -> Sequence[Fragment]:
        """This rank's weights in fp32 and its optimizer state."""
        return self._holding.fragments()

    def refresh(self) -> None:
        """Bring the weights that are computed with in line with the fragments."""
        self._holding.refresh()

    def scalars(self) -> Mapping[str, float]:
        """Steps that changed the weights, DeepSpeed's counters, and the state of fp16's loss scale."""
        counters = {"num_steps": self._num_steps, _STEPS: self._engine.global_steps, _SKIPPED: self._engine.skipped_steps}
        return {**{name: float(value) for name, value in counters.items()}, **(self._scale.scalars() if self._scale else {})}

    def load_scalars(self, scalars: Mapping[str, float]) -> None:
        """Restore what `scalars` gave, here or in a TorchEngine."""
        self._num_steps = int(scalars["num_steps"])
        self._holding.load_num_steps(self._num_steps)
        self._engine.global_steps = int(scalars.get(_STEPS, self._num_steps))
        self._engine.skipped_steps = int(scalars.get(_SKIPPED, 0))
        self._engine.micro_steps = self._engine.global_steps * self._accumulation
        self._engine.global_samples = self._engine.global_steps * self._engine.train_batch_size()
        if self._scale:
            self._scale.load(scalars)
            self._tell_scale()


class _Module(nn.Module):
    """What DeepSpeed wraps: enters autocast inside of its forward, which switches outer autocast off, and casts inputs where weights are cast.

    Cast weights need it too: buffers stay in fp32, and what they are added to would be fp32 where the next layer's weights are not.
    """

    def __init__(self, inner: nn.Module, device: str, dtype: torch.dtype, *, is_cast: bool, compiled: bool) -> None:
        super().__init__()
        self.inner = inner
        self._device = device
        self._formats = {True: dtype, False: dtype if is_cast else torch.float32}  # while training, and while judging
        self._inputs = dtype if is_cast else torch.float32
        self._train: tuple[Callable[[Tensor], Tensor]] = (torch.compile(inner) if compiled else inner,)  # a tuple, so that it is no submodule

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.is_floating_point():
            inputs = inputs.to(self._inputs)
        with autocast(self._device, self._formats[self.training]):
            outputs = self._train[0](inputs) if self.training else typing.cast(Tensor, self.inner(inputs))
        return outputs.float()


def check_castable(model: nn.Module) -> None:
    """Raises ConfigError where a model's weights cannot be cast: batch norm computes with its statistics, which stay in fp32."""
    norms = (f"{name} ({type(module).__name__})" for name, module in model.named_modules() if isinstance(module, _BatchNorm))
    first = next(norms, None)
    if first is not None:
        message = f"teacher.deepspeed.weights is precision, but the model has batch norm at {first}, wanted fp32 or a model without."
        raise ConfigError(message, hint="set `teacher.deepspeed.weights: fp32`; products are computed in the precision all the same.")


def _warn(config: TeacherConfig, model: nn.Module, dtype: torch.dtype, reporter: Reporter) -> None:
    if config.deepspeed.weights == "precision" and dtype is torch.float32:
        reporter.warn("teacher.deepspeed.weights: precision changes nothing here: train.precision auto means fp32 on this device.")
    if config.activation_checkpointing and not checkpoint_activations(model):
        reporter.warn("teacher.activation_checkpointing changes nothing here: the model repeats no block.")


def _initialize(module: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Json]) -> Any:
    prepare()
    import deepspeed
    from deepspeed.runtime.config import DeepSpeedConfigError

    check_disks(settings)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where memory is before and after each of its own steps
            engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings, dist_init_required=False)
    except (AssertionError, ValueError, DeepSpeedConfigError) as error:
        message = f"DeepSpeed refuses the configuration: {str(error).rstrip('.')}."
        raise ConfigError(message, hint="change what it names under `teacher.deepspeed`.") from error
    return engine
