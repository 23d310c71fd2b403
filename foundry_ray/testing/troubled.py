"""A small model that gets into trouble in the middle of a training, for tests of what becomes of that training.

    model:
      family: import:foundry_ray.testing.troubled:net
      params: {folder: /tmp/x, trouble: nan, at_pass: 20, rank: 1}

It writes the process id of each rank into its folder, so that a test can kill that rank. It has no batch norm: what it learns depends on the
number of workers by rounding alone.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from foundry_ray.types import ImageSchema

FACTORY = "import:foundry_ray.testing.troubled:net"
Trouble = Literal["", "nan", "bug", "out_of_memory"]


def net(
    schema: ImageSchema, *, folder: str, trouble: Trouble = "", at_pass: int = 0, rank: int = 0, most_rows: int = 1 << 30, pause_s: float = 0.0
) -> nn.Module:
    """The factory.

    Args:
        schema: Images.
        folder: Gets `rank-<rank>.pid`.
        trouble: What happens on `rank`: a loss that is NaN at one pass, or a ValueError at each from there on. out_of_memory is for all ranks.
        at_pass: At which training pass, counted from 0 since the process started.
        rank: Where.
        most_rows: Rows of a training pass for which there is memory, with the trouble out_of_memory.
        pause_s: Each training pass takes at least so long, so that a test has time to strike.
    """
    model = _Troubled(schema, Path(folder), pause_s=pause_s)
    if trouble == "out_of_memory":
        model.most_rows = most_rows
    elif trouble and model.rank == rank:
        model.trouble, model.at_pass = trouble, at_pass
    return model


def process_of(folder: Path, rank: int) -> int:
    """The process id of a rank of the group that started last."""
    return int((folder / f"rank-{rank}.pid").read_text())


class _Troubled(nn.Module):
    def __init__(self, schema: ImageSchema, folder: Path, *, pause_s: float) -> None:
        super().__init__()
        self.trouble: Trouble = ""
        self.at_pass = 0
        self.most_rows = 1 << 30
        self.rank = torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0
        self._num_passes = 0
        self._pause_s = pause_s
        self.body = nn.Linear(schema.channels * schema.height * schema.width, 16)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(16, len(schema.classes))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank-{self.rank}.pid").write_text(str(os.getpid()))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.body(inputs.flatten(1) / 255))
        logits: Tensor = self.head(self.drop(hidden))
        return logits * self._factor(len(inputs)) if self.training else logits

    def _factor(self, num_rows: int) -> float:
        """One; or not a number, or an error."""
        time.sleep(self._pause_s)
        self._num_passes += 1
        if num_rows > self.most_rows:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate memory for {num_rows} rows.")
        if self.trouble == "bug" and self._num_passes > self.at_pass:
            raise ValueError("a bug in the user's model")
        return float("nan") if self.trouble == "nan" and self._num_passes == self.at_pass + 1 else 1.0
