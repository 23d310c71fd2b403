"""How the global batch is spread over workers, and how a training is made to fit memory. Pure functions; `failures` decides when.

A shape changes where and in which order sums are made, never which samples make a step: num_workers x micro_batch_size x
accumulation is the batch size, always.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from foundry_ray.config import TeacherConfig
from foundry_ray.errors import OutOfRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Workers, samples per worker and forward pass, forward passes per step, and what ZeRO shards."""

    num_workers: int
    micro_batch_size: int
    accumulation: int
    zero_stage: int

    @property
    def batch_size(self) -> int:
        """Samples per optimizer step over all workers."""
        return self.num_workers * self.micro_batch_size * self.accumulation

    def __str__(self) -> str:
        return f"{self.num_workers} workers x {self.micro_batch_size} samples x {self.accumulation} passes, ZeRO {self.zero_stage}"


def shape_of(config: TeacherConfig, num_workers: int) -> Shape:
    """The shape that a configuration asks for with so many workers.

    Raises:
        OutOfRange: The batch does not divide by the workers, or their share by the micro-batch.
    """
    batch_size = config.train.batch_size
    if batch_size % num_workers:
        message = f"teacher.train.batch_size is {batch_size}, wanted a multiple of the {num_workers} workers."
        hint = f"set it to {batch_size - batch_size % num_workers or num_workers}, or change `teacher.workers`."
        raise OutOfRange(message, hint=hint, key="teacher.train.batch_size", value=batch_size)
    share = batch_size // num_workers
    micro = min(config.micro_batch_size or share, share)
    if share % micro:
        whole = f"the share of each of {num_workers} workers in a batch of {batch_size}"
        message = f"teacher.micro_batch_size is {micro}, wanted a divisor of {share}, {whole}."
        hint = f"set it to {max(one for one in range(1, micro) if share % one == 0)}."
        raise OutOfRange(message, hint=hint, key="teacher.micro_batch_size", value=micro)
    return Shape(num_workers=num_workers, micro_batch_size=micro, accumulation=share // micro, zero_stage=config.deepspeed.zero_stage)


def halved(shape: Shape) -> Shape | None:
    """The same batch in smaller passes: the micro-batch divided by its smallest prime factor, two wherever it is even; None at one sample."""
    micro = shape.micro_batch_size
    if micro == 1:
        return None
    factor = next(one for one in range(2, micro + 1) if micro % one == 0)
    return replace(shape, micro_batch_size=micro // factor, accumulation=shape.accumulation * factor)


def usable_workers(config: TeacherConfig, available: int) -> int | None:
    """The most workers, of `min_workers` to `workers`, that are available and share the batch evenly; None where there are too few."""
    least = config.min_workers or config.workers
    return next((count for count in range(min(config.workers, available), least - 1, -1) if config.train.batch_size % count == 0), None)
