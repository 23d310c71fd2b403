"""How fast training goes: samples and tokens per second, MFU, memory. `flops` knows what a model needs and what a device can do.

A meter decides nothing and synchronises nothing: it is read right after the ranks have met, when the device has caught up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foundry_ray.observability import MFU, SAMPLES_PER_S, TOKENS_PER_S
from foundry_ray.protocols import Clock
from foundry_ray.training.flops import NumberFormat, number_format, peak_flops, training_flops

__all__ = ["Meter", "Workload", "open_meter", "workload"]

_LEAST_S = 1e-9


class Meter:
    """Measures from one read to the next.

    Args:
        clock: Time.
        device: This rank's.
        world_size: Ranks that share the samples, each on a device like this one.
        flops_per_sample: What training on one sample needs; None leaves MFU out.
        tokens_per_sample: Length of a sequence; None where samples are none.
        dtype: What the products are computed in.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        device: str,
        world_size: int = 1,
        flops_per_sample: float | None = None,
        tokens_per_sample: int | None = None,
        dtype: NumberFormat = "fp32",
    ) -> None:
        self._clock = clock
        self._device = device
        self._tokens = tokens_per_sample
        peak = peak_flops(device, dtype) if flops_per_sample is not None else None
        self._mfu_s = flops_per_sample / (world_size * peak) if flops_per_sample is not None and peak is not None else None
        self._since_s = clock.monotonic_s()

    def start(self) -> None:
        """Measure from here on: after judging or a checkpoint, say."""
        self._since_s = self._clock.monotonic_s()
        _forget_peak(self._device)

    def read(self, num_samples: int, paused_s: float = 0.0) -> Mapping[str, float]:
        """What happened since the last read or start.

        Args:
            num_samples: Samples trained on over all ranks.
            paused_s: Seconds of that time that are not training's.

        Returns:
            `samples_per_s` over all ranks, `tokens_per_s` of sequences, `mfu` (1.0 is the peak) where the device's peak is known, and `memory_bytes`:
            the most that tensors took on this rank's GPU, on a CPU what this process holds now.
        """
        elapsed_s = max(self._clock.monotonic_s() - self._since_s - paused_s, _LEAST_S)
        rate = num_samples / elapsed_s
        values = {SAMPLES_PER_S: rate, "memory_bytes": _memory_bytes(self._device)}
        if self._tokens is not None:
            values[TOKENS_PER_S] = rate * self._tokens
        if self._mfu_s is not None:
            values[MFU] = rate * self._mfu_s
        self.start()
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What training on one sample takes.

    Attributes:
        flops_per_sample: None where nobody would know what to make of it: there is no GPU whose peak is known.
        tokens_per_sample: Length of a sequence; None where samples are none.
        is_convolutional: Whether convolutions are among the products.
    """

    flops_per_sample: float | None
    tokens_per_sample: int | None
    is_convolutional: bool


def workload(model: nn.Module, sample: Tensor, *, warn: Callable[[str], None]) -> Workload:
    """What a model takes, without computing it.

    Args:
        model: Whole: before an engine shards it.
        sample: One input with its batch dimension; integers of shape (1, T) are a sequence of T tokens, bytes of more dimensions an image.
        warn: Told where FLOPs are wanted and cannot be counted.
    """
    return Workload(
        flops_per_sample=_flops(model, sample.float() if sample.ndim > 2 else sample, warn) if _has_known_gpu() else None,
        tokens_per_sample=sample.shape[1] if sample.ndim == 2 and not sample.is_floating_point() else None,
        is_convolutional=any(isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for module in model.modules()),
    )


def open_meter(work: Workload, *, clock: Clock, device: str, dtype: torch.dtype, world_size: int = 1) -> Meter:
    """A meter of a workload, on ranks with a device like this one each, in the number format that precision resolved to."""
    return Meter(
        clock=clock,
        device=device,
        world_size=world_size,
        flops_per_sample=work.flops_per_sample,
        tokens_per_sample=work.tokens_per_sample,
        dtype=number_format(dtype, device, is_convolutional=work.is_convolutional),
    )


def _has_known_gpu() -> bool:
    return torch.cuda.is_available() and peak_flops("cuda", "fp32") is not None


def _flops(model: nn.Module, sample: Tensor, warn: Callable[[str], None]) -> float | None:
    """A model of the user's may do anything with tensors that have no values, and then it has no MFU."""
    try:
        return training_flops(model, sample)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        warn(f"MFU is left out: the FLOPs of the model cannot be counted from shapes alone: {' '.join(str(error).split())[:200]}")
        return None


def _forget_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def _memory_bytes(device: str) -> float:
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated(device))
    import psutil

    return float(psutil.Process().memory_info().rss)
