"""Once a second the ranks look up from their work: they add up the loss, tell how it goes, and agree on what one of them wants.

A pulse comes every so many steps, and the number is agreed on in the pulse before, so that all ranks come to it. Decides: how often. Changes
no number that is trained with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from foundry_ray.protocols import Clock, Engine, Reporter

if TYPE_CHECKING:
    from foundry_ray.training.meter import Meter

_EVERY_S = 1.0
_MOST_STEPS = 32  # steps may slow down a hundredfold from one pulse to the next, and a stop must still be heard


class Pulse:
    """Counts steps to the next pulse.

    Args:
        engine: Reduces over the ranks.
        reporter: Told by rank 0.
        clock: Paces the pulses.
        meter: Measures throughput.
        num_steps: Steps of the whole training.
        batch_size: Samples of a step.
    """

    def __init__(self, engine: Engine, *, reporter: Reporter, clock: Clock, meter: Meter, num_steps: int, batch_size: int) -> None:
        self._engine = engine
        self._reporter = reporter
        self._clock = clock
        self._meter = meter
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._interval = 1
        self.restart(0)

    def restart(self, step: int, sums: Sequence[float] = (0.0, 0.0)) -> None:
        """Begin to count at a step, where training starts or goes on after something else; `sums` are those of the epoch so far."""
        self._last_step, self._next_step = step, step + self._interval
        self._last_s = self._clock.monotonic_s()
        self._last_sums = tuple(sums)
        self._last_paused_s = 0.0
        self._meter.start()

    def is_due(self, step: int) -> bool:
        """Whether this step ends with a pulse."""
        return step >= self._next_step

    def beat(self, step: int, sums: Sequence[float], *, lr: float, note: str, paused_s: float, wishes: Sequence[float]) -> Sequence[float]:
        """Tell, agree, and set the next pulse. All ranks call it after the same step.

        Args:
            step: Steps done.
            sums: This rank's sum of losses since the epoch began, and how many they are.
            lr: Of the last step.
            note: Which epoch it is.
            paused_s: Seconds since `restart` that were spent waiting for others.
            wishes: What this rank wants.

        Returns:
            The largest of each wish over the ranks.
        """
        now_s = self._clock.monotonic_s()
        num_steps = step - self._last_step
        pace = num_steps * _EVERY_S / max(now_s - self._last_s - (paused_s - self._last_paused_s), 1e-9)
        proposal = min(max(1.0, pace), _MOST_STEPS) if self._engine.rank == 0 else 0.0
        interval, *agreed = self._engine.reduce([proposal, *wishes], mode="max")
        total, count = self._engine.reduce([now - before for now, before in zip(sums, self._last_sums, strict=True)])
        if self._engine.rank == 0:
            measured = self._meter.read(num_steps * self._batch_size, paused_s - self._last_paused_s)
            self._tell(step, {"loss": total / max(count, 1.0), "lr": lr, "grad_norm": self._engine.grad_norm, **measured}, note)
        self._last_step, self._last_s, self._last_sums, self._last_paused_s = step, now_s, tuple(sums), paused_s
        self._interval = int(interval)
        self._next_step = step + self._interval
        return agreed

    def _tell(self, step: int, metrics: Mapping[str, float], note: str) -> None:
        self._reporter.metrics(step, {name: value for name, value in metrics.items() if math.isfinite(value)})
        self._reporter.progress(step, self._num_steps, note)
