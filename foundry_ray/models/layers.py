"""Layers that all families share.

`Normalize` is the front of every model: raw pixels in, normalised values out, so that no caller can forget it or do it twice.
`ConvNorm` is a convolution with its batch norm, the unit that shrinking copies slices of.
"""

from __future__ import annotations

import typing

import torch
from torch import Tensor, nn

from foundry_ray.errors import ConfigError, OutOfRange
from foundry_ray.types import Preprocessing

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class Normalize(nn.Module):
    """(x - mean) / std per channel. The statistics are buffers: they travel with the weights and into the exported graph.

    Args:
        channels: Channels of the input (B, C, H, W).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        return (pixels_BCHW - self.mean) / self.std


class ConvNorm(nn.Sequential):
    """A convolution without bias, then batch norm.

    Args:
        num_in: Input channels.
        num_out: Output channels.
        kernel: Odd side of the kernel; the padding keeps the size.
        stride: Stride of the convolution.
    """

    def __init__(self, num_in: int, num_out: int, *, kernel: int, stride: int) -> None:
        super().__init__(nn.Conv2d(num_in, num_out, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(num_out))
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    @property
    def conv(self) -> nn.Conv2d:
        return typing.cast(nn.Conv2d, self[0])

    @property
    def norm(self) -> nn.BatchNorm2d:
        return typing.cast(nn.BatchNorm2d, self[1])

    @property
    def num_out(self) -> int:
        """Output channels as the weight has them, also after pruning."""
        return int(self.conv.weight.shape[0])

    @property
    def stride(self) -> int:
        return int(self.conv.stride[0])

    def norm_vectors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scale, shift, running mean and running variance, each of shape (num_out,)."""
        norm = self.norm
        mean_O, variance_O = norm.running_mean, norm.running_var
        assert mean_O is not None, "batch norm keeps running statistics"
        assert variance_O is not None, "batch norm keeps running statistics"
        return norm.weight, norm.bias, mean_O, variance_O

    def folded(self) -> Tensor:
        """The weight (out, in, kernel, kernel) with the batch norm's scale folded in, in fp32."""
        scale_O, _, _, variance_O = (vector.detach().float() for vector in self.norm_vectors())
        return self.conv.weight.detach().float() * (scale_O / (variance_O + self.norm.eps).sqrt())[:, None, None, None]


def set_preprocessing(model: nn.Module, preprocessing: Preprocessing) -> None:
    """Write the statistics of the training split into the model's `Normalize`. Raises ConfigError where they do not fit."""
    front = next((module for module in model.modules() if isinstance(module, Normalize)), None)
    if front is None:
        raise ConfigError(f"{type(model).__name__} has no Normalize module, wanted one at its front.", hint="begin the family's model with it.")
    if not front.mean.shape[1] == len(preprocessing.mean) == len(preprocessing.std):
        got = f"{len(preprocessing.mean)} means and {len(preprocessing.std)} standard deviations"
        raise ConfigError(f"got {got}, wanted {front.mean.shape[1]} of each, one per channel.", hint="prepare the data set again: `--fresh data`.")
    for buffer, values in ((front.mean, preprocessing.mean), (front.std, preprocessing.std)):
        buffer.copy_(torch.tensor(values).reshape(buffer.shape))


def set_dropout(model: nn.Module, rate: float | None) -> None:
    """Give all dropout layers, and the dropout inside nn.MultiheadAttention, one rate; None leaves them as the model has them.

    Raises:
        OutOfRange: The rate is above 0 and the model has no dropout layer, so that it would be ignored.
    """
    if rate is None:
        return
    layers = [module for module in model.modules() if isinstance(module, _DROPOUTS)]
    attentions = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    if rate > 0 and not layers and not attentions:
        message = f"train.dropout is {rate}, but {type(model).__name__} has no dropout layer, wanted none or 0."
        raise OutOfRange(message, hint="leave `train.dropout` out, or put nn.Dropout into the model.", key="train.dropout", value=rate)
    for layer in layers:
        layer.p = rate
    for attention in attentions:
        attention.dropout = rate
