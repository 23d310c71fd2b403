"""Which device and which number format training uses.

`auto` means bf16 exactly where the device multiplies it natively (AMX or AVX-512 BF16, or a CUDA device that supports it), else
fp32. That rule was measured, not assumed: on an AVX-512-BF16 core, one thread, batch 64, channels_last, a training step of the
0.70 M ResNet takes 106 ms instead of 194 ms in fp32, and of a 44 k ResNet 23 ms instead of 25 ms. So bf16 also pays, a little, for
the smallest student. channels_last pays in both formats (1.2x; 1.4x for the small one in bf16), so it is not a choice.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from foundry_ray.config.training import Precision
from foundry_ray.errors import ResourcesUnavailable

_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(*, use_gpu: bool) -> str:
    """The device of a process that trains alone: `cpu`, or the first GPU. Raises ResourcesUnavailable where a GPU is wanted and none is seen."""
    if not use_gpu:
        return "cpu"
    if torch.cuda.device_count() == 0:
        message = "this process sees no GPU, wanted one."
        raise ResourcesUnavailable(
            message, hint="set `teacher.use_gpu: false`, or run where there are GPUs.", requested={"GPU": 1.0}, available={"GPU": 0.0}
        )
    return "cuda:0"


def resolve_precision(precision: Precision, device: str) -> torch.dtype:
    """The format of the matrix products; weights, norms, losses and the optimizer stay in fp32."""
    if precision == "auto":
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    return _FORMATS[precision]


def has_native_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 in hardware."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def autocast(device: str, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Computes in `dtype` what tolerates it; a no-op for fp32."""
    return torch.autocast(device.partition(":")[0], dtype=dtype, enabled=dtype is not torch.float32)


def channels_last(inputs: Tensor) -> Tensor:
    """Images (B, C, H, W) with the same values and channels innermost in memory; all convolutions that follow keep that order. Others as they are.

    `Tensor.to(memory_format=...)` leaves images of one channel as they are, and then the whole network computes in the slow order.
    """
    if inputs.ndim != 4 or not inputs.is_floating_point():
        return inputs
    return torch.empty_like(inputs, memory_format=torch.channels_last).copy_(inputs)


def in_fp32(model: nn.Module, device: str) -> nn.Module:
    """The model in fp32 on a device, in place; each parameter is contiguous, so that a fragment can be a view of it."""
    model = model.float().to(device)
    for param in model.parameters():
        param.data = param.data.contiguous()
    return model
