"""Turns row numbers into a micro-batch on the device: inputs, augmentation, labels, who has one, and the teacher's cached logits.

The augmentation of (row, view) and the mixing of (step, place in the batch) are functions of the seed, so nothing here has state. Shapes:
N rows, B micro-batch, V views, K teachers, C channels or classes, H height, W width; inputs (N, ...) are images or tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from foundry_ray.data.transforms import augment
from foundry_ray.errors import ConfigError
from foundry_ray.training.mixing import MixPlan, apply

if TYPE_CHECKING:
    from foundry_ray.data import Split

_GPU_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSplit:
    """One split as tensors: inputs (N, ...), which are images as uint8 (N, C, H, W) with pixels 0..255 or token numbers (N, T); labels (N, ...).

    A row whose label is below 0 has none, and learns from a teacher alone.
    """

    inputs_N: Tensor
    labels_N: Tensor

    @classmethod
    def of(cls, split: Split) -> TensorSplit:
        """The arrays of a split as tensors that share their memory, also where it is read-only: training never writes to it."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return cls(inputs_N=torch.from_numpy(split.inputs_N), labels_N=torch.from_numpy(split.labels_N))

    @property
    def num_rows(self) -> int:
        return len(self.labels_N)

    @property
    def has_images(self) -> bool:
        return self.inputs_N.ndim == 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilTargets:
    """The teacher's logits on V fixed views of each training row, fp16 (V, N, C), and how much they count; of K teachers (V, N, K, C).

    `alpha` in [0, 1] is the teacher's share of the loss, `temperature` is T of Hinton et al. (arXiv 1503.02531). Without `uses_labels` no row's
    label is looked at.
    """

    logits_VNC: Tensor
    alpha: float
    temperature: float
    uses_labels: bool = True

    def view_of(self, epoch: int) -> int:
        """The view that an epoch trains on."""
        return epoch % self.logits_VNC.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """The places in a batch whose rows have a label, and the share of such rows in the whole split, in [0, 1]."""

    places: Tensor
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one forward pass trains on.

    Attributes:
        labelled: Which rows have a label; None: all.
        targets_BC: The teacher's logits in fp32.
        partner_labels_B: Of the rows mixed in by `mix`; `partner_labelled` says which of them there are.
    """

    inputs: Tensor
    labels_B: Tensor
    labelled: Labelled | None = None
    targets_BC: Tensor | None = None
    partner_labels_B: Tensor | None = None
    partner_labelled: Labelled | None = None
    mix: MixPlan | None = None


class Feed:
    """Micro-batches of a training split on one device.

    A GPU holds the whole split where it takes at most a quarter of the free memory; else batches go through pinned memory.

    Args:
        distil: The teacher's cached logits, where it is they that are learnt from.
        is_taught: Somebody answers for the rows that have no label.
        uses_labels: Without, all rows count as having none.

    Raises:
        ConfigError: Rows have no label, and nobody answers for them.
    """

    def __init__(
        self,
        split: TensorSplit,
        *,
        ops: Sequence[str],
        seed: int,
        distil: DistilTargets | None,
        device: str,
        is_taught: bool = False,
        uses_labels: bool = True,
    ) -> None:
        self._inputs_N = _near(split.inputs_N, device)
        self._labels_N = split.labels_N.to(device)
        self._is_labelled_N = _is_labelled(split.labels_N) if uses_labels else torch.zeros(split.num_rows, dtype=torch.bool)
        if self._is_labelled_N is not None and not is_taught:
            raise _nobody_answers(self._is_labelled_N)
        self._share = 1.0 if self._is_labelled_N is None else float(self._is_labelled_N.double().mean())
        self._logits_VNC = distil.logits_VNC.to(device) if distil else None
        self._distil = distil
        self._ops = tuple(ops)
        self._seed = seed
        self._device = device
        self._has_images = split.has_images

    def batch(self, rows_B: np.ndarray, epoch: int, *, partners_B: np.ndarray | None = None, mix: MixPlan | None = None) -> Batch:
        """Rows of an epoch, augmented, and mixed with their partners where there is a plan."""
        local_B = self._there(torch.from_numpy(rows_B))
        view = self._distil.view_of(epoch) if self._distil else epoch
        inputs = self._inputs(rows_B, view)
        targets_BC = self._logits_VNC[view, local_B].float() if self._logits_VNC is not None else None
        batch = Batch(inputs=inputs, labels_B=self._labels_N[local_B], labelled=self._labelled(rows_B), targets_BC=targets_BC)
        if mix is None or partners_B is None:
            return batch
        mixed = apply(mix, inputs, self._inputs(partners_B, view))
        partner_labels_B = self._labels_N[self._there(torch.from_numpy(partners_B))]
        return replace(batch, inputs=mixed, partner_labels_B=partner_labels_B, partner_labelled=self._labelled(partners_B), mix=mix)

    def sample(self) -> Tensor:
        """The first eight rows, as the model takes them."""
        return self._inputs(np.arange(min(8, len(self._labels_N))), 0)

    def _labelled(self, rows_B: np.ndarray) -> Labelled | None:
        """Found on the CPU: a GPU would have to be waited for."""
        if self._is_labelled_N is None:
            return None
        places = self._is_labelled_N[torch.from_numpy(rows_B)].nonzero().flatten()
        return Labelled(places=self._there(places), share=self._share)

    def _inputs(self, rows_B: np.ndarray, view: int) -> Tensor:
        index_B = torch.from_numpy(rows_B)
        inputs = self._stored(index_B)
        if not self._has_images:
            return inputs
        return augment(inputs.float(), self._there(index_B), ops=self._ops, seed=self._seed, view=view)

    def _there(self, values: Tensor) -> Tensor:
        """On the device. A GPU takes them when it gets there: a plain copy would wait until it has nothing left to do."""
        return values.pin_memory().to(self._device, non_blocking=True) if self._device.startswith("cuda") else values

    def _stored(self, index_B: Tensor) -> Tensor:
        if self._inputs_N.device.type == self._device.partition(":")[0]:
            return self._inputs_N[self._there(index_B)]
        return self._there(self._inputs_N[index_B])


def _is_labelled(labels_N: Tensor) -> Tensor | None:
    """Which rows have a label, (N,) on the CPU; None where all have, or where each row has many."""
    if labels_N.ndim != 1 or not bool((labels_N < 0).any()):
        return None
    return (labels_N >= 0).cpu()


def _nobody_answers(is_labelled_N: Tensor) -> ConfigError:
    message = f"{int((~is_labelled_N).sum())} of {len(is_labelled_N)} training rows have no label (below 0), and no teacher answers for them."
    return ConfigError(message, hint="add the recipe step `distil`, or leave those rows out.")


def _near(inputs_N: Tensor, device: str) -> Tensor:
    if not device.startswith("cuda"):
        return inputs_N
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return inputs_N.to(device) if inputs_N.nbytes <= _GPU_SHARE * free_bytes else inputs_N
