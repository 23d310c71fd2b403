"""The engine of many ranks: DeepSpeed owns gradients and optimizer state, sharded by ZeRO stage (arXiv 1910.02054).

Weights stay in fp32 and products run in bf16 under autocast, exactly as in TorchEngine, so both learn alike. No JIT: neither the
shared-memory all-reduce nor a compiled Adam is built, which would cost minutes of g++ on the first start. Shapes: B batch, C
channels or classes, H height, W width.
"""

from __future__ import annotations

import copy
import logging
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn

from foundry_ray.config import TrainConfig
from foundry_ray.errors import ArtifactCorrupt, ConfigError
from foundry_ray.protocols import Reporter
from foundry_ray.training.averaging import average_buffers
from foundry_ray.training.optimizers import ADAMW_BETAS, ADAMW_EPS, SGD_MOMENTUM, param_groups
from foundry_ray.training.precision import autocast, channels_last, resolve_precision
from foundry_ray.types import Json

_TAG = "state"
_WORLD = "world.pt"
_MAX_BUCKET = 50_000_000


class _MixedPrecision(nn.Module):
    """Enters autocast inside of DeepSpeed's own forward, which switches outer autocast off."""

    def __init__(self, inner: nn.Module, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = inner
        self._device = device
        self._dtype = dtype

    def forward(self, images_BCHW: Tensor) -> Tensor:
        with autocast(self._device, self._dtype):
            logits_BC: Tensor = self.inner(images_BCHW)
        return logits_BC.float()


class DeepSpeedEngine:
    """One rank of a DeepSpeed job. The process group exists already, and every rank builds the same model.

    Args:
        model: Trained in place; moved to `device`.
        train: Optimizer, weight decay, clipping, precision, global batch size.
        zero_stage: 0 to 3: what is sharded (nothing, optimizer state, gradients too, weights too).
        device: `cpu` or `cuda:<index>`.
        reporter: Warned where a checkpoint of another world size gives weights only.

    Raises:
        ConfigError: Averaged weights together with ZeRO 3, where no rank holds the weights to average.
    """

    def __init__(self, model: nn.Module, train: TrainConfig, *, zero_stage: int, device: str, reporter: Reporter) -> None:
        if zero_stage == 3 and train.ema_decay > 0:
            raise ConfigError(
                "train.ema_decay is on together with ZeRO stage 3, wanted one of them.", hint="set `deepspeed.zero_stage: 2` or `ema_decay: 0`."
            )
        self.rank = torch.distributed.get_rank()
        self.world_size = torch.distributed.get_world_size()
        self.device = device
        self._train = train
        self._zero_stage = zero_stage
        self._reporter = reporter
        self._template = copy.deepcopy(model)
        self._start(model)

    def _start(self, model: nn.Module) -> None:
        self.model = model
        wrapped = _MixedPrecision(model.to(self.device), self.device, resolve_precision(self._train.precision, self.device))
        self._engine = _initialize(wrapped, self._train, self._zero_stage, self.world_size)

    @property
    def grad_norm(self) -> float:
        """Norm of the last step's gradient over all ranks, before clipping; not a number where DeepSpeed does not compute it."""
        norm = self._engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, C) in fp32 of float images, computed in the resolved precision."""
        return typing.cast(Tensor, self._engine(channels_last(images_BCHW)))

    def step(self, loss: Tensor) -> None:
        """Backward pass with reduction over the ranks, clipping, one optimizer step."""
        self._engine.backward(loss)
        self._engine.step()

    def set_lr(self, lr: float) -> None:
        """The learning rate of the next step."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr

    def reduce_sum(self, values: Sequence[float]) -> Sequence[float]:
        """Element-wise sum over all ranks, in float64."""
        total = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return typing.cast("list[float]", total.tolist())

    def sync_buffers(self) -> None:
        """Average floating-point buffers (batch-norm statistics) over all ranks."""
        average_buffers(self.model, self)

    def snapshot(self) -> nn.Module:
        """A plain copy of the model with the weights as they are now. All ranks call it."""
        import deepspeed

        model = copy.deepcopy(self._template)
        with deepspeed.zero.GatheredParameters(list(self.model.parameters()), enabled=self._zero_stage == 3):
            model.load_state_dict(self.model.state_dict())
        return model.to(self.device)

    def save(self, directory: Path) -> None:
        """Write this rank's shards in DeepSpeed's own layout, and on rank 0 the whole weights. All ranks call it, each with its own directory."""
        self._engine.save_checkpoint(str(directory), tag=_TAG, save_latest=False)
        weights = self.snapshot().state_dict()
        if self.rank == 0:
            torch.save({"world": self._world, "weights": weights}, directory / _WORLD)

    def load(self, directory: Path) -> None:
        """Restore from what all ranks wrote; shards of another world size or ZeRO stage do not fit, then the weights alone go on, with a warning.

        DeepSpeed's own `load_module_only` is not used for that: under ZeRO 3 it loads wrong weights without an error.
        """
        saved = torch.load(directory / _WORLD, map_location="cpu", weights_only=True)
        if saved["world"] != self._world:
            self._go_on_with_weights(saved["weights"], typing.cast("dict[str, int]", saved["world"]))
            return
        path, _ = self._engine.load_checkpoint(str(directory), tag=_TAG)
        if path is None:
            raise ArtifactCorrupt(
                f"DeepSpeed found no checkpoint {_TAG!r} among the fetched files.", hint="train again: `--fresh teacher`.", key=_TAG
            )

    @property
    def _world(self) -> dict[str, int]:
        return {"workers": self.world_size, "zero_stage": self._zero_stage}

    def _go_on_with_weights(self, weights: dict[str, Tensor], saved: dict[str, int]) -> None:
        then, now = (f"{world['workers']} workers at ZeRO stage {world['zero_stage']}" for world in (saved, self._world))
        if self.rank == 0:
            self._reporter.warn(f"the checkpoint is of {then}, this is {now}: the weights go on, the optimizer starts anew.")
        model = copy.deepcopy(self._template)
        model.load_state_dict(weights)
        self._engine.destroy()
        self._start(model)


def _initialize(model: nn.Module, train: TrainConfig, zero_stage: int, world_size: int) -> typing.Any:
    _quieten()
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    optimizer = _optimizer(model, train)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=_config(model, train, zero_stage, world_size), dist_init_required=False
    )
    return engine


def _quieten() -> None:
    """DeepSpeed and torch.distributed write dozens of lines a second that tell a user nothing. Only this worker process is touched."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)


def _optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    groups = [{"params": list(group.params), "weight_decay": group.weight_decay} for group in param_groups(model, train.weight_decay)]
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train.lr, betas=ADAMW_BETAS, eps=ADAMW_EPS, fused=True)
    return torch.optim.SGD(groups, lr=train.lr, momentum=SGD_MOMENTUM, nesterov=True, fused=True)


def _config(model: nn.Module, train: TrainConfig, zero_stage: int, world_size: int) -> dict[str, Json]:
    num_params = sum(param.numel() for param in model.parameters())
    return {
        "train_micro_batch_size_per_gpu": max(1, train.batch_size // world_size),
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.grad_clip,
        "zero_optimization": {"stage": zero_stage, "reduce_bucket_size": min(_MAX_BUCKET, num_params), "overlap_comm": torch.cuda.is_available()},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
