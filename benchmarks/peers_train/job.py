"""What every contestant trains, and how its speed is taken. Shapes: N rows, B batch, C channels or classes, H height, W width.

Speed is taken between the beginnings of two steps, on rank 0, after some steps of warm-up. Whoever feeds a contestant calls `Marks.mark`
when a step begins.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.record import Handed

LR, WEIGHT_DECAY, BETAS, EPS, MAX_NORM = 2e-3, 0.01, (0.9, 0.999), 1e-8, 1.0
_RISING_SHARE = 0.15
_NUM_CLASSES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Handed):
    """One measurement: `model` resnet is the 0.70 M one on 28 x 28 pixels, empty is one linear layer on 2 x 2 pixels."""

    model: Literal["resnet", "empty"]
    rows: str
    batch_size: int
    num_steps: int
    num_warmup: int
    zero_stage: int
    out: str

    @property
    def side(self) -> int:
        """Pixels of an image's edge."""
        return 28 if self.model == "resnet" else 2

    def split(self) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 1, H, W) and labels int64 (N,): exactly the rows of all steps."""
        saved = np.load(self.rows)
        num_rows = self.batch_size * self.num_steps
        return torch.from_numpy(saved["images"][:num_rows, :, : self.side, : self.side].copy()), torch.from_numpy(saved["labels"][:num_rows])

    def network(self) -> nn.Module:
        """The same weights on every rank."""
        from foundry_ray.models.resnet import ResNetFamily
        from foundry_ray.types import ImageSchema

        torch.manual_seed(0)
        if self.model == "empty":
            return nn.Sequential(nn.Flatten(), nn.Linear(4, _NUM_CLASSES))
        schema = ImageSchema(channels=1, height=28, width=28, dtype="uint8", classes=tuple(str(number) for number in range(_NUM_CLASSES)))
        network = ResNetFamily().build(schema, {"width": 32, "depth": 2})
        with torch.no_grad():
            network.normalize.mean.fill_(72.9)  # type: ignore[union-attr,operator]
            network.normalize.std.fill_(90.0)  # type: ignore[union-attr,operator]
        return network


def rank() -> int:
    """This process's."""
    return int(os.environ["RANK"])


def world_size() -> int:
    """How many there are."""
    return int(os.environ["WORLD_SIZE"])


def optimizer(network: nn.Module) -> torch.optim.AdamW:
    """AdamW whose weight decay spares vectors: norms and biases."""
    params = [param for param in network.parameters() if param.requires_grad]
    groups = [
        {"params": [param for param in params if param.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [param for param in params if param.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, fused=True)


def factor_at(step: int, num_steps: int) -> float:
    """One cycle (arXiv 1708.07120): the learning rate of a step over its peak."""
    rising = _RISING_SHARE * num_steps
    if step < rising:
        return _cosine(1 / 25, 1.0, (step + 1) / (rising + 1))
    return _cosine(1.0, 1e-4, (step - rising) / (num_steps - rising))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def batches(job: Job, marks: Marks) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's share of each step: shuffled, half of the images mirrored, float, channels innermost in memory."""
    images_NCHW, labels_N = job.split()
    order_N = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(0))
    mirror = torch.Generator().manual_seed(1 + rank())
    share = job.batch_size // world_size()
    for step in range(job.num_steps):
        marks.mark()
        start = step * job.batch_size + rank() * share
        rows_B = order_N[start : start + share]
        images_BCHW = images_NCHW[rows_B].float()
        mirrored_B = torch.rand(share, generator=mirror) < 0.5
        images_BCHW = images_BCHW.flip(3).where(mirrored_B[:, None, None, None], images_BCHW)
        yield torch.empty_like(images_BCHW, memory_format=torch.channels_last).copy_(images_BCHW), labels_N[rows_B]


class Autocast(nn.Module):
    """bf16 products, fp32 weights and logits: for engines that switch an autocast around them off."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_BCHW: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits_BC: Tensor = self.network(images_BCHW)
        return logits_BC.float()


def check(loss: Tensor) -> float:
    """A loss as a number; stops at the first that is not finite."""
    value = loss.item()
    if not math.isfinite(value):
        raise SystemExit(f"the loss is {value}")
    return value


class Marks:
    """When steps began, in wall time and in this process's own processor time."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._wall: list[float] = []
        self._cpu: list[float] = []

    def mark(self) -> None:
        """A step begins."""
        self._wall.append(time.perf_counter())
        self._cpu.append(time.process_time())

    def finish(self, losses: Sequence[float], note: str) -> None:
        """Write what came of it, on rank 0. The mean loss tells whether all have learnt the same."""
        job, first = self._job, self._job.num_warmup
        assert len(self._wall) == job.num_steps, f"{len(self._wall)} steps began, wanted {job.num_steps}"
        if rank() != 0:
            return
        num_steps = job.num_steps - 1 - first
        result = {
            "step_ms": 1e3 * (self._wall[-1] - self._wall[first]) / num_steps,
            "cpu_ms": 1e3 * (self._cpu[-1] - self._cpu[first]) / num_steps,
            "loss": sum(losses) / len(losses),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "note": note,
        }
        Path(job.out).write_text(json.dumps(result))


def leave() -> NoReturn:
    """End this process without tearing gloo down: its threads now and then abort an interpreter that has done all its work."""
    sys.stdout.flush()
    os._exit(0)
