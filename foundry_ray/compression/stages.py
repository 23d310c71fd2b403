"""What each step of a recipe came to: size, work and accuracy on rows that were held back. Shapes: N rows, C classes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_ray.compression.apply import served
from foundry_ray.compression.cost import cost
from foundry_ray.compression.runtime import runtime_of
from foundry_ray.protocols import Given
from foundry_ray.types import CompressionRecipe

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from foundry_ray.data import Split

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The student after a step.

    Attributes:
        name: The step's kind; `as given` before all, `trained` after the training.
        size_bytes: Of the file that would be served of it now.
        metric: What is judged, larger is better.
        num_rows: On how many rows.
    """

    name: str
    num_params: int
    num_macs: int
    size_bytes: int
    metric: str
    value: float
    num_rows: int

    @property
    def note(self) -> str:
        """As a sentence."""
        return (
            f"{self.name}: {self.num_params:,} parameters, {self.num_macs:,} MACs, {self.size_bytes:,} bytes, "
            f"{self.metric} {self.value:.4f} on {self.num_rows} rows held back"
        )


class Judge:
    """Looks at a student after each step, and remembers what it saw.

    Args:
        given: The rows that it is trained on.
        held_back: Those that it is judged on, all with labels.
        calibration_N: Training rows that set ranges.
    """

    def __init__(self, given: Given, held_back: Split, *, calibration_N: np.ndarray) -> None:
        from foundry_ray import tasks

        self._given = given
        self._held_back = held_back
        self._calibration_N = calibration_N
        self._task = tasks.get(given.task)
        self._seen: list[Stage] = []

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All that was seen, in order."""
        return tuple(self._seen)

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last value."""
        last = self._seen[-1]
        return {last.metric: last.value}

    def see(self, name: str, model: nn.Module) -> None:
        """A student in fp32, which is left as it was, without the int8 that its training simulates."""
        from foundry_ray.compression.fake_quant import detached

        model = detached(copy.deepcopy(model).cpu().eval())[0]
        onnx = served(model, CompressionRecipe(), self._given.schema, self._calibration_N)
        self._add(name, model, len(onnx), _logits(model, self._held_back.inputs_N))

    def see_shipped(self, name: str, model: nn.Module, recipe: CompressionRecipe) -> None:
        """What is shipped of a student by its settled recipe, in the runtime that it is shipped for."""
        from foundry_ray.compression.fake_quant import detached
        from foundry_ray.inference import open_choice, run_batched

        model = copy.deepcopy(model).cpu().eval()
        onnx = served(model, recipe, self._given.schema, self._calibration_N, given=self._given)
        self._add(name, detached(model)[0], len(onnx), run_batched(open_choice(onnx, runtime_of(recipe)), self._held_back.inputs_N))

    def _add(self, name: str, model: nn.Module, size_bytes: int, logits_NC: np.ndarray) -> None:
        counted = cost(model, self._given.schema)
        value = float(self._task.correct(logits_NC, self._held_back.labels_N).mean())
        self._seen.append(
            Stage(
                name=name,
                num_params=counted.num_params,
                num_macs=counted.num_macs,
                size_bytes=size_bytes,
                metric=self._task.primary_metric,
                value=value,
                num_rows=len(self._held_back.labels_N),
            )
        )


def _logits(model: nn.Module, inputs_N: np.ndarray) -> np.ndarray:
    import torch

    found = []
    with torch.inference_mode():
        for start in range(0, len(inputs_N), _ROWS_AT_ONCE):
            inputs = torch.from_numpy(inputs_N[start : start + _ROWS_AT_ONCE])
            found.append(model(inputs.float() if inputs.ndim == 4 else inputs.long()).float())
    logits_NC: np.ndarray = torch.cat(found).numpy()
    return logits_NC
