"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from foundry_ray.config import TrainConfig

_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1e-4


def lr_at(step: int, total: int, train: TrainConfig) -> float:
    """Learning rate of one optimizer step.

    All schedules rise over the first `warmup_ratio` of the steps to `train.lr`. `one_cycle` (arXiv 1708.07120) rises along a cosine from
    lr / 25 and falls along a cosine to lr / 10,000; `cosine` (arXiv 1608.03983) rises linearly and falls along a cosine to 0; `constant`
    rises linearly and stays.

    Args:
        step: The step to be taken, counted from 0.
        total: Steps of the whole training, >= 1.
        train: Names the schedule, the peak and the warm-up.
    """
    warmup_steps = train.warmup_ratio * total
    if step < warmup_steps:
        return train.lr * _rising(train.schedule, (step + 1) / (warmup_steps + 1))
    remaining = total - warmup_steps
    return train.lr * _falling(train.schedule, (step - warmup_steps) / remaining)


def _rising(schedule: str, progress: float) -> float:
    return _cosine(_ONE_CYCLE_START, 1.0, progress) if schedule == "one_cycle" else progress


def _falling(schedule: str, progress: float) -> float:
    if schedule == "constant":
        return 1.0
    return _cosine(1.0, _ONE_CYCLE_END if schedule == "one_cycle" else 0.0, progress)


def _cosine(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along half a cosine, progress in [0, 1]."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
