"""The step `distil`: the student learns from the teacher's logits as well as from the labels (arXiv 1503.02531).

The step changes no weight before training. Its targets are computed once per study: each training sample is seen in V fixed views, and
the teacher's logits of each are kept in fp16, so that a trial never runs the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from foundry_ray.compression import steps
from foundry_ray.config import Section
from foundry_ray.protocols import Given, Reporter
from foundry_ray.types import Scalar

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn


_IMAGES_DIM = 4


class DistilParams(Section):
    """How strongly, and how softly, the teacher is followed."""

    alpha: float = Field(ge=0, le=1, description="Share of the loss that comes from the teacher; the rest comes from the labels.")
    temperature: float = Field(4.0, gt=0, le=100, description="Divisor of both sides' logits; larger values teach more of the wrong classes' order.")


@steps.register("distil")
class Distil:
    """See the module's docstring."""

    kind = "distil"

    def check(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """See `Compressor.check`."""
        return steps.checked(DistilParams, params, kind=self.kind)

    def apply(self, model: nn.Module, params: Mapping[str, Scalar], *, given: Given) -> nn.Module:
        """The model as it is: training does the rest."""
        return model


def teacher_targets(
    teacher: nn.Module, inputs_N: Tensor | np.ndarray, *, augment: Sequence[str], views: int, seed: int, batch_size: int, reporter: Reporter
) -> np.ndarray:
    """The teacher's logits of every sample in every view, float16 of shape (V, N, classes).

    Runs on the teacher's device, in bf16 where that is native: the targets are softened and stored in half precision anyway.

    Args:
        teacher: Takes raw pixels as floats, or token ids.
        inputs_N: Rows of the training split, uint8 images (N, C, H, W) or token ids (N, T); row i has the index i in the augmentation.
        augment: Names of the random changes.
        views: V.
        seed: That of the training whose epochs e see view e % V.
        batch_size: Rows per forward pass.
        reporter: Told of each finished view.
    """
    import numpy as np
    import torch

    inputs_N = torch.as_tensor(inputs_N)
    teacher = teacher.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    num_distinct = views if augment else 1
    result = []
    for view in range(num_distinct):
        result.append(_one_view(teacher, inputs_N, augment=augment, view=view, seed=seed, batch_size=batch_size))
        reporter.progress(view + 1, num_distinct, "teacher targets")
    return np.stack(result * (views // num_distinct))


def _one_view(teacher: nn.Module, inputs_N: Tensor, *, augment: Sequence[str], view: int, seed: int, batch_size: int) -> np.ndarray:
    import torch

    from foundry_ray.data import transforms

    device = next(teacher.parameters()).device
    parts = []
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=_has_bf16(device)):
        for start in range(0, len(inputs_N), batch_size):
            seen = inputs_N[start : start + batch_size].to(device)
            if seen.ndim == _IMAGES_DIM:
                indices_B = torch.arange(start, start + len(seen), device=device)
                seen = transforms.augment(seen.float(), indices_B, ops=augment, seed=seed, view=view)
                seen = seen.contiguous(memory_format=torch.channels_last)
            parts.append(teacher(seen).float().cpu())
    logits_NC: np.ndarray = torch.cat(parts).half().numpy()
    return logits_NC


def _has_bf16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if device.type == "cpu" else False
