"""Mixed precision: which layers stay in fp32 so that a quantized file loses few points (partial quantization, arXiv 2004.09602, section 5.1).

Each layer is quantized alone, and its mean squared error of the logits says how much it costs. From the file in which all are quantized on,
the costliest stays in fp32, then the next, until the loss is within the budget. The same rows give the same choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from foundry_ray.errors import RecipeInfeasible
from foundry_ray.protocols import Given

if TYPE_CHECKING:
    import numpy as np

_MAX_ROWS = 1024


class HeldBack(NamedTuple):
    """Training rows that set no range, with their labels, and the task that says how many of them are answered right."""

    inputs_N: np.ndarray
    labels_N: np.ndarray
    task: str


def held_back(given: Given | None, num_calibration: int, seed: int | None) -> HeldBack:
    """The last training rows with labels, at most 1024, that were not used to calibrate. Raises RecipeInfeasible where there are none."""
    import numpy as np

    from foundry_ray.compression.calibration import drawn_rows
    from foundry_ray.compression.rows import labelled_rows

    if given is None or given.inputs_N is None or given.labels_N is None:
        message = "quantize: accuracy_budget needs training rows with labels, and none are given."
        raise RecipeInfeasible(message, hint="name the layers that stay in fp32 in `keep`.", reason="no labelled rows")
    used = drawn_rows(len(given.inputs_N), num_calibration, seed)
    free = np.setdiff1d(labelled_rows(given.labels_N), used)[-_MAX_ROWS:]
    if len(free) == 0:
        message = f"quantize: accuracy_budget needs training rows with labels beside the {num_calibration} of the calibration, and there are none."
        raise RecipeInfeasible(message, hint="lower `student.calibration_rows`.", reason="no rows held back")
    return HeldBack(given.inputs_N[free], given.labels_N[free], given.task)


def keep_within(
    budget: float, exported: bytes, make: Callable[[Sequence[str]], bytes], names: Sequence[str], *, always: Sequence[str], rows: HeldBack
) -> tuple[tuple[str, ...], str]:
    """The layers that stay in fp32, and what was found, as a sentence.

    Args:
        budget: Points that may be lost.
        exported: The fp32 file.
        make: The file in which the layers of these names stay in fp32.
        names: All layers.
        always: Those that stay in any case.
        rows: What it is measured on.

    Raises:
        RecipeInfeasible: The loss is above the budget with any layer left to quantize.
    """
    import numpy as np

    real = _logits(exported, rows)
    exact, kept = _points(real, rows), list(always)
    open_names = [name for name in dict.fromkeys(names) if name not in kept]
    ranked: list[str] = []
    while True:
        lost = exact - _points(_logits(make(kept), rows), rows)
        if lost <= budget:
            told = f"accuracy on {len(rows.inputs_N)} held-back training rows: {exact:.2f} % in fp32, {lost:.2f} points less as shipped"
            return tuple(sorted(kept)), f"{told} (budget {budget:g})"
        if not ranked:
            costs = {name: float(np.square(_logits(make([*kept, *(set(open_names) - {name})]), rows) - real).mean()) for name in open_names}
            ranked = sorted(open_names, key=lambda name: -costs[name])
        if len(kept) + 1 >= len(always) + len(open_names):
            message = f"quantize: with one layer left to quantize {lost:.2f} points are lost on held-back training rows, wanted at most {budget:g}."
            raise RecipeInfeasible(message, hint="raise `accuracy_budget`, or use `bits: 32`.", reason="accuracy budget")
        kept.append(ranked[len(kept) - len(always)])


def _logits(onnx: bytes, rows: HeldBack) -> np.ndarray:
    import numpy as np

    from foundry_ray.inference import open_runtime, run_batched

    runtime = open_runtime(onnx)
    return run_batched(runtime, np.ascontiguousarray(rows.inputs_N, dtype=runtime.input_dtype))


def _points(logits_N: np.ndarray, rows: HeldBack) -> float:
    from foundry_ray import tasks

    return 100 * float(tasks.get(rows.task).correct(logits_N, rows.labels_N).mean())
