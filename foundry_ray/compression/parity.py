"""Proof that the file answers as the model does, in three statements that are kept apart.

(a) the same bytes in a fresh process give bit-equal logits on one device; (b) fp32 torch and fp32 ONNX differ by at most 1e-4 of the
range of the logits; (c) int8 agrees with fp32 on nearly all predictions, which is no parity but a number that is stated.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import foundry_ray
from foundry_ray.errors import ParityFailed
from foundry_ray.inference import open_choice, open_runtime, run_batched
from foundry_ray.protocols import RuntimeChoice

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

TOLERANCE_RATIO = 1e-4
_REPLAY_ROWS = 16
_REPLAY_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """A proven parity (b): the largest difference, as a ratio of the range of the logits, over `num_rows` rows."""

    max_abs_ratio: float
    num_rows: int


def check_export(model: nn.Module, onnx: bytes, rows_N: np.ndarray) -> Parity:
    """Prove (b) on some rows. Raises ParityFailed."""
    return compared(model, run_batched(open_runtime(onnx), rows_N), rows_N, what="the fp32 file")


def compared(model: nn.Module, actual_N: np.ndarray, rows_N: np.ndarray, *, what: str) -> Parity:
    """What a file gave for some rows, beside the model on the CPU: a GPU's convolutions round to TF32, which is coarser than the tolerance.

    Raises:
        ParityFailed: They differ by more than the tolerance.
    """
    import numpy as np
    import torch

    reference = copy.deepcopy(model).cpu().eval()
    with torch.inference_mode():
        rows = torch.from_numpy(rows_N)
        expected = reference(rows.float() if rows.dtype == torch.uint8 else rows).float().numpy()
    spread = float(np.ptp(expected)) or 1.0
    difference = float(np.abs(actual_N - expected).max()) / spread
    if not difference <= TOLERANCE_RATIO:
        raise ParityFailed(
            f"{what} differs from the model by {difference:.2e} of the logit range, wanted at most {TOLERANCE_RATIO:g}.",
            hint="an operator was exported wrongly: report it with the model's architecture.",
            max_abs_diff=difference,
            tolerance=TOLERANCE_RATIO,
        )
    return Parity(max_abs_ratio=difference, num_rows=len(rows_N))


def check_replay(onnx: bytes, images_NCHW: np.ndarray, choice: RuntimeChoice) -> None:
    """Prove (a): load the bytes in a new Python process, in the runtime that they ship with, and compare. Takes about 0.3 s. Raises ParityFailed."""
    import numpy as np

    rows = np.ascontiguousarray(images_NCHW[:_REPLAY_ROWS])
    expected = open_choice(onnx, choice).run(rows)
    actual = _replayed(onnx, rows, choice)
    if not np.array_equal(expected, actual):
        difference = float(np.abs(expected - actual).max()) if expected.shape == actual.shape else float("inf")
        raise ParityFailed(
            f"the same file gave logits that differ by {difference:.2e} in a fresh process, wanted equal bits.",
            hint="the runtime is not deterministic on this machine: compare `foundry doctor` of both.",
            max_abs_diff=difference,
            tolerance=0.0,
        )


def agreement_ratio(onnx: bytes, other: bytes, images_NCHW: np.ndarray) -> float:
    """Statement (c): the share of rows for which both files predict the same class."""
    first, second = (run_batched(open_runtime(data), images_NCHW).argmax(axis=1) for data in (onnx, other))
    return float((first == second).mean())


def runtime_agreement_ratio(onnx: bytes, choice: RuntimeChoice, images_NCHW: np.ndarray) -> float:
    """The share of rows for which a file predicts the same class in this runtime as in the default one."""
    first, second = (run_batched(runtime, images_NCHW).argmax(axis=1) for runtime in (open_runtime(onnx), open_choice(onnx, choice)))
    return float((first == second).mean())


def _replayed(onnx: bytes, rows_NCHW: np.ndarray, choice: RuntimeChoice) -> np.ndarray:
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        model, rows, logits = (Path(folder) / name for name in ("model.onnx", "rows.npy", "logits.npy"))
        model.write_bytes(onnx)
        np.save(rows, rows_NCHW)
        command = [sys.executable, "-m", "foundry_ray.inference.replay", str(model), str(rows), str(logits)]
        command += [choice.name, str(choice.threads or 1), choice.precision]
        place = Path(foundry_ray.__file__).parent.parent
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=_REPLAY_TIMEOUT_S, check=False)
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or ["no output"]
            message = f"the file does not answer in a fresh process: {reason[0]}."
            raise ParityFailed(message, hint="`foundry doctor` tells what is installed.", max_abs_diff=float("inf"), tolerance=0.0)
        result: np.ndarray = np.load(logits)
        return result
