"""The score of an epoch: val, shared out over the ranks. Shapes: N rows, B batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foundry_ray.protocols import Engine, Task
from foundry_ray.training.feed import TensorSplit
from foundry_ray.training.precision import channels_last

_CLASSES_AT_ONCE = 512
_PASSES = 4  # that take as much memory without gradients as one with them, at the least


def judge(evaluate: Callable[[Tensor], Tensor], task: Task, split: TensorSplit, engine: Engine, *, micro_batch_size: int | None) -> dict[str, float]:
    """Mean loss (`val_loss`) and the task's primary metric over a split.

    Each rank judges the rows rank, rank + world_size, ...; sums make the means. All ranks evaluate equally often, since under ZeRO 3 each
    evaluation is collective: one with fewer rows repeats its first.

    Args:
        evaluate: Inputs on the engine's device -> outputs in fp32.
        micro_batch_size: Rows at once; rows of one label each, whose outputs are small, go by four times as many, and by 512 at most. So
            judging, too, fits memory when it is lowered.
    """
    num_rows, world_size = split.num_rows, engine.world_size
    at_once = min(_CLASSES_AT_ONCE, _PASSES * (micro_batch_size or _CLASSES_AT_ONCE)) if split.labels_N.ndim == 1 else micro_batch_size or 1
    largest_share = -(-num_rows // world_size)
    sums = [0.0, 0.0, 0.0]
    for start in range(0, largest_share, at_once):
        rows_B = torch.arange(engine.rank + start * world_size, min(num_rows, (start + at_once) * world_size), world_size)
        is_mine = len(rows_B) > 0
        more = _sums(evaluate, task, split, rows_B if is_mine else torch.zeros(1, dtype=torch.int64), engine.device)
        sums = [a + b for a, b in zip(sums, more, strict=True)] if is_mine else sums
    loss, score, count = engine.reduce(sums)
    return {"val_loss": loss / count, task.primary_metric: score / count}


@torch.no_grad()
def _sums(evaluate: Callable[[Tensor], Tensor], task: Task, split: TensorSplit, rows_B: Tensor, device: str) -> tuple[float, float, float]:
    """Loss, score and rows of one batch."""
    inputs = split.inputs_N[rows_B].to(device)
    outputs, labels_B = evaluate(channels_last(inputs.float()) if split.has_images else inputs).cpu(), split.labels_N[rows_B]
    score = float(task.correct(outputs.numpy(), labels_B.numpy()).sum())
    return float(task.loss(outputs, labels_B)) * len(rows_B), score, float(len(rows_B))
