"""Turns row numbers into a batch on the device: pixels, augmentation, labels, and the teacher's cached logits.

The augmentation of (row, view) is a function of the seed, so nothing here has state. Shapes: N rows, B batch, V views, C channels
or classes, H height, W width.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from foundry_ray.data.transforms import augment

if TYPE_CHECKING:
    import numpy as np

    from foundry_ray.data import Split

_GPU_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSplit:
    """One split as tensors: images uint8 (N, C, H, W) with pixels 0..255, labels int64 (N,)."""

    images_NCHW: Tensor
    labels_N: Tensor

    @classmethod
    def of(cls, split: Split) -> TensorSplit:
        """The arrays of a split as tensors that share their memory, also where it is read-only: training never writes to it."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return cls(images_NCHW=torch.from_numpy(split.images_NCHW), labels_N=torch.from_numpy(split.labels_N))

    @property
    def num_rows(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilTargets:
    """The teacher's logits on V fixed views of each training row, fp16 (V, N, C), and how much they count.

    `alpha` in [0, 1] is the teacher's share of the loss, `temperature` is T of Hinton et al. (arXiv 1503.02531).
    """

    logits_VNC: Tensor
    alpha: float
    temperature: float

    def view_of(self, epoch: int) -> int:
        """The view that an epoch trains on."""
        return epoch % self.logits_VNC.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step trains on; `targets_BC` are the teacher's logits in fp32."""

    images_BCHW: Tensor
    labels_B: Tensor
    targets_BC: Tensor | None


class Feed:
    """Batches of a training split on one device.

    A GPU holds the whole split where it takes at most a quarter of the free memory; else batches go through pinned memory.
    """

    def __init__(self, split: TensorSplit, *, ops: Sequence[str], seed: int, distil: DistilTargets | None, device: str) -> None:
        self._images_NCHW = _near(split.images_NCHW, device)
        self._labels_N = split.labels_N.to(device)
        self._logits_VNC = distil.logits_VNC.to(device) if distil else None
        self._distil = distil
        self._ops = tuple(ops)
        self._seed = seed
        self._device = device

    def batch(self, rows_B: np.ndarray, epoch: int) -> Batch:
        """Rows of an epoch, augmented."""
        index_B = torch.from_numpy(rows_B)
        local_B = index_B.to(self._device)
        view = self._distil.view_of(epoch) if self._distil else epoch
        images_BCHW = augment(self._pixels(index_B), local_B, ops=self._ops, seed=self._seed, view=view)
        targets_BC = self._logits_VNC[view, local_B].float() if self._logits_VNC is not None else None
        return Batch(images_BCHW=images_BCHW, labels_B=self._labels_N[local_B], targets_BC=targets_BC)

    def _pixels(self, index_B: Tensor) -> Tensor:
        if self._images_NCHW.device.type == self._device.partition(":")[0]:
            return self._images_NCHW[index_B.to(self._device)].float()
        return self._images_NCHW[index_B].pin_memory().to(self._device, non_blocking=True).float()


def _near(images_NCHW: Tensor, device: str) -> Tensor:
    if not device.startswith("cuda"):
        return images_NCHW
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return images_NCHW.to(device) if images_NCHW.nbytes <= _GPU_SHARE * free_bytes else images_NCHW
