"""What every contestant compresses, and how those fine-tune that do. Shapes: N rows, B batch, C channels or classes, H height, W width."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.record import Handed
from foundry_ray import models
from foundry_ray.data import transforms
from foundry_ray.types import ImageSchema

LR, WEIGHT_DECAY, LABEL_SMOOTHING, MAX_NORM, WARMUP_SHARE = 1e-3, 0.05, 0.1, 1.0, 0.15
BATCH_SIZE = 128
AUGMENT = ("flip", "shift")
NUM_CALIBRATION = 256
_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Handed):
    """One student: `point` says what is asked of the contestant (a ratio, a scheme), `out` is its folder."""

    point: str
    seed: int
    epochs: int
    teacher: str
    rows: str
    num_rows: int
    out: str

    @property
    def folder(self) -> Path:
        """Where its files go."""
        return Path(self.out)

    @property
    def onnx(self) -> Path:
        """The teacher's served file: raw pixels in, fp32."""
        return Path(self.teacher) / "model.onnx"

    def network(self) -> nn.Module:
        """The trained teacher."""
        description = json.loads((Path(self.teacher) / "architecture.json").read_text())
        network = models.rebuild(description)
        models.load_tensors(network, models.tensors_from_bytes((Path(self.teacher) / "model.safetensors").read_bytes()))
        return network.eval()

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Training rows: images uint8 (N, 1, 28, 28) and labels int64 (N,)."""
        saved = np.load(self.rows)
        return saved["images"][: self.num_rows], saved["labels"][: self.num_rows].astype(np.int64)

    def calibration(self) -> list[np.ndarray]:
        """Training rows that the seed draws, uint8, in batches."""
        images_NCHW, _ = self.split()
        rows = np.random.default_rng(self.seed).choice(len(images_NCHW), size=min(NUM_CALIBRATION, len(images_NCHW)), replace=False)
        return [images_NCHW[rows[start : start + _AT_ONCE]] for start in range(0, len(rows), _AT_ONCE)]

    def done(self, *, num_params: int, began_s: float, note: str) -> None:
        """Say what the student is; its files are in place."""
        result = {"num_params": num_params, "seconds": time.perf_counter() - began_s, "note": note}
        (self.folder / "result.json").write_text(json.dumps(result))


class FromPixels(nn.Module):
    """A network that takes pixels as they are stored."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        logits_BC: Tensor = self.network(pixels_BCHW.float())
        return logits_BC


def schema() -> ImageSchema:
    """Of one row."""
    return ImageSchema(channels=1, height=28, width=28, dtype="uint8", classes=tuple(str(number) for number in range(10)))


def count(network: nn.Module) -> int:
    """Its parameters."""
    return sum(param.numel() for param in network.parameters())


def fine_tune(network: nn.Module, job: Job) -> None:
    """Train all weights in place: AdamW without weight decay for vectors, one cycle, bf16 products, channels innermost in memory."""
    torch.manual_seed(job.seed)
    network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    vectors = [param for param in network.parameters() if param.ndim <= 1]
    others = [param for param in network.parameters() if param.ndim > 1]
    groups = [{"params": others, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
    num_steps = job.epochs * -(-job.num_rows // BATCH_SIZE)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=num_steps, pct_start=WARMUP_SHARE, cycle_momentum=False)
    for images_BCHW, labels_B in _batches(job):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits_BC = network(images_BCHW)
        loss = nn.functional.cross_entropy(logits_BC.float(), labels_B, label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
        optimizer.step()
        cycle.step()
    network.eval()


def _batches(job: Job) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled anew in each epoch, mirrored and shifted as ours are."""
    images_NCHW, labels_N = (torch.from_numpy(array) for array in job.split())
    order = torch.Generator().manual_seed(job.seed)
    for epoch in range(job.epochs):
        for rows_B in torch.split(torch.randperm(len(labels_N), generator=order), BATCH_SIZE):
            images_BCHW = transforms.augment(images_NCHW[rows_B].float(), rows_B, ops=AUGMENT, seed=job.seed, view=epoch)
            yield images_BCHW.contiguous(memory_format=torch.channels_last), labels_N[rows_B]
