"""The learning rate as a pure function of the step (and of the plateaus so far): nothing to save, nothing to restore."""

from __future__ import annotations

import math

from foundry_ray.config import TrainConfig

_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1e-4


def lr_at(step: int, total: int, train: TrainConfig, *, num_plateaus: int = 0) -> float:
    """Learning rate of one optimizer step.

    All schedules rise over the first `warmup_ratio` of the steps to `train.lr`. `one_cycle` (arXiv 1708.07120) rises along a cosine from
    lr / 25 and falls along a cosine to lr / 10,000; the others rise linearly. Then `cosine` (arXiv 1608.03983) falls along a cosine to 0,
    `linear` along a line to 0, `constant` stays, and `plateau` stays at lr * plateau_factor^num_plateaus.

    Args:
        step: The step to be taken, counted from 0.
        total: Steps of the whole training, >= 1.
        train: Names the schedule, the peak and the warm-up.
        num_plateaus: What `stopping.num_plateaus` says of the epochs before this one; only `plateau` heeds it.
    """
    peak = train.lr * train.plateau_factor**num_plateaus if train.schedule == "plateau" else train.lr
    warmup_steps = train.warmup_ratio * total
    if step < warmup_steps:
        return peak * _rising(train.schedule, (step + 1) / (warmup_steps + 1))
    return peak * _falling(train.schedule, (step - warmup_steps) / (total - warmup_steps))


def _rising(schedule: str, progress: float) -> float:
    return _cosine(_ONE_CYCLE_START, 1.0, progress) if schedule == "one_cycle" else progress


def _falling(schedule: str, progress: float) -> float:
    if schedule in ("constant", "plateau"):
        return 1.0
    if schedule == "linear":
        return 1.0 - progress
    return _cosine(1.0, _ONE_CYCLE_END if schedule == "one_cycle" else 0.0, progress)


def _cosine(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along half a cosine, progress in [0, 1]."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
