"""Keeps training on CPUs away from a kernel of oneDNN that writes outside its memory (uxlfoundation/oneDNN#6035; in torch 2.13 and 2.14).

The gradient of the weights of a strided 1x1 convolution over fewer than 16 channels that lie innermost in memory, in fp32 and in bf16: where
threads or blocks divide an image (an odd batch on two threads, or 64x64 pixels on one), the heap breaks or numbers are wrong in silence. Kernels of
stride 1 are sound. So such a convolution first takes the pixels that it reads, and then does the same at stride 1.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

_CHANNELS = 16
"""oneDNN's block of channels with AVX-512; with AVX2 it is 8."""


def avoid_unsound_kernel(model: nn.Module, device: str) -> None:
    """Let the convolutions in question read their pixels first, in place; on a GPU there are none. Outputs, names, shapes and strides stay."""
    for module in model.modules():
        if device == "cpu" and isinstance(module, nn.Conv2d) and _is_unsound(module):
            module.forward = functools.partial(_forward, module)  # type: ignore[method-assign]


def _is_unsound(conv: nn.Conv2d) -> bool:
    is_plain = type(conv).forward is nn.Conv2d.forward and conv.groups == 1 and conv.padding in ((0, 0), "valid")
    return is_plain and conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.weight.shape[1] < _CHANNELS


def _forward(conv: nn.Conv2d, inputs_BCHW: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return nn.Conv2d.forward(conv, inputs_BCHW)
    down, right = conv.stride
    return nn.functional.conv2d(inputs_BCHW[..., ::down, ::right], conv.weight, conv.bias)
