"""The teachers' logits of fixed augmented views of each training row: computed once, so that a trial never runs a teacher. Shapes: V views, N rows,
K teachers, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from foundry_ray.protocols import Reporter

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

_IMAGES_DIM = 4


def teacher_targets(
    teacher: nn.Module | Sequence[nn.Module],
    inputs_N: Tensor | np.ndarray,
    *,
    augment: Sequence[str],
    views: int,
    seed: int,
    batch_size: int,
    reporter: Reporter,
) -> np.ndarray:
    """The teacher's logits of every sample in every view, float16 of shape (V, N, C); of several teachers (V, N, K, C).

    Where nothing is augmented all views are alike, and there is one. Each teacher's own are kept, because their probabilities are averaged at a
    temperature that is the recipe's.

    Runs on the teacher's device, in bf16 where that is native: the targets are softened and stored in half precision anyway.

    Args:
        teacher: Takes raw pixels as floats, or token ids; or several that do. Left as it is.
        inputs_N: Rows of the training split, uint8 images (N, C, H, W) or token ids (N, T); row i has the index i in the augmentation.
        augment: Names of the random changes.
        views: V.
        seed: That of the training whose epochs e see view e % V.
        batch_size: Rows per forward pass.
        reporter: Told of each finished view.
    """
    import numpy as np
    import torch
    from torch import nn

    inputs_N = torch.as_tensor(inputs_N)
    teachers = [teacher] if isinstance(teacher, nn.Module) else list(teacher)
    ready = [copy.deepcopy(one).eval().to(memory_format=torch.channels_last) for one in teachers]  # type: ignore[call-overload]
    num_distinct = views if augment else 1
    result = []
    for view in range(num_distinct):
        answers = [_one_view(one, inputs_N, augment=augment, view=view, seed=seed, batch_size=batch_size) for one in ready]
        result.append(answers[0] if isinstance(teacher, nn.Module) else np.stack(answers, axis=1))
        reporter.progress(view + 1, num_distinct, "teacher targets")
    return np.stack(result)


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
