"""How much arithmetic a model needs, and how much a device can do: the two sides of MFU.

MFU is defined as in PaLM (arXiv 2204.02311, appendix B): the FLOPs that the model needs for the samples per second that were seen, divided by
the device's peak. What is computed twice to save memory is needed once, so it counts once. FLOPs are counted operator by operator, as
multiply-adds x 2 of matrix products, convolutions and attention, and not from a formula, so that any model has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from foundry_ray.models.modes import evaluating

__all__ = ["NumberFormat", "forward_flops", "number_format", "peak_flops", "training_flops"]

NumberFormat = Literal["bf16", "fp16", "tf32", "fp32"]
"""What matrix products are computed in. tf32 is how a GPU computes fp32 ones where torch lets it."""

_TERA = 1e12
_AMPERE_ON = ("bf16", "fp16", "tf32", "fp32")


def _peaks(half: float, tf32: float, fp32: float) -> Mapping[str, float]:
    """Of a device whose tensor cores know bf16 and tf32."""
    return dict(zip(_AMPERE_ON, (half, half, tf32, fp32), strict=True))


_PEAKS: tuple[tuple[str, Mapping[str, float]], ...] = (
    ("GB200", _peaks(2500, 1250, 80)),
    ("B200", _peaks(2250, 1100, 75)),
    ("GH200", _peaks(989.5, 494.5, 67)),
    ("H200 NVL", _peaks(835.5, 417.5, 60)),
    ("H200", _peaks(989.5, 494.5, 67)),
    ("H100 NVL", _peaks(835.5, 417.5, 60)),
    ("H100 PCIE", _peaks(756.5, 378, 51)),
    ("H100", _peaks(989.5, 494.5, 67)),
    ("A100", _peaks(312, 156, 19.5)),
    ("A40", _peaks(149.7, 74.8, 37.4)),
    ("A30", _peaks(165, 82, 10.3)),
    ("A10", _peaks(125, 62.5, 31.2)),
    ("L40S", _peaks(362, 183, 91.6)),
    ("L40", _peaks(181, 90.5, 90.5)),
    ("L4", _peaks(121, 60, 30.3)),
    ("RTX A6000", _peaks(154.8, 77.4, 38.7)),
    ("RTX 4090", _peaks(165.2, 82.6, 82.6)),
    ("RTX 3090", _peaks(71, 35.6, 35.6)),
    ("V100S", {"fp16": 130, "fp32": 16.4}),
    ("V100 PCIE", {"fp16": 112, "fp32": 14}),
    ("V100", {"fp16": 125, "fp32": 15.7}),
    ("T4", {"fp16": 65, "fp32": 8.1}),
    ("MI300X", _peaks(1307.4, 653.7, 163.4)),
)
"""Words of a device's name -> dense TFLOP/s, accumulated in fp32, from the vendors' data sheets; where a sheet has only the number for 2:4
sparsity, half of it. The first row whose words are all in the name counts."""

_SLICE = re.compile(r"MIG|LAPTOP|D|MAX|\d+[ABCQ]")
"""Words in the names of parts of a device (MIG, vGPU profiles like 24Q) and of slower variants, which have no row."""


def peak_flops(device: str, number: NumberFormat) -> float | None:
    """What a device can do at most, in dense FLOP/s; None where no table knows it: a CPU, an unknown GPU, a part of one, a format that it emulates.

    Args:
        device: As torch names it: "cpu", "cuda:0".
        number: What the products are computed in; see `number_format`.
    """
    return peak_of(torch.cuda.get_device_name(device), number) if device.startswith("cuda") else None


def peak_of(name: str, number: NumberFormat) -> float | None:
    """`peak_flops` of the device that `torch.cuda.get_device_name` calls so."""
    words = set(re.split(r"[\s_-]+", re.sub(r"SXM\d", "", name.upper())))
    if any(_SLICE.fullmatch(word) for word in words):
        return None
    peaks = next((peaks for key, peaks in _PEAKS if words.issuperset(key.split())), {})
    return peaks[number] * _TERA if number in peaks else None


def number_format(dtype: torch.dtype, device: str, *, is_convolutional: bool) -> NumberFormat:
    """What the products of a model are computed in. fp32 ones become tf32 on a GPU where torch is allowed to; convolutions are by default."""
    if dtype is torch.bfloat16:
        return "bf16"
    if dtype is torch.float16:
        return "fp16"
    if not device.startswith("cuda"):
        return "fp32"
    backend = torch.backends.cudnn.conv if is_convolutional else torch.backends.cuda.matmul  # type: ignore[attr-defined]
    return "tf32" if backend.fp32_precision == "tf32" else "fp32"


def training_flops(model: nn.Module, sample: Tensor) -> float:
    """FLOPs to train on one sample: forward, and twice that for the gradients of inputs and weights.

    Args:
        model: Whole: before an engine has sharded it.
        sample: One input with its batch dimension: shape (1, ...).
    """
    return 3.0 * forward_flops(model, sample)


def forward_flops(model: nn.Module, sample: Tensor) -> float:
    """FLOPs of one forward pass. Computed from shapes, in no time and memory, so a model that looks at values raises what torch raises then.

    Attention is computed from plain products here: torch counts the FLOPs of its fused kernels for CUDA but not for CPUs.
    """
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            functional_call(model, state, (sample.to("meta"),))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return float(counter.get_total_flops())
