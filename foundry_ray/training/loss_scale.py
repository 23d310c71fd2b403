"""How fp16 keeps small gradients: the loss is scaled up before the backward pass, and the gradient down after it (arXiv 1710.03740, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

from foundry_ray.config import LossScaleConfig
from foundry_ray.errors import Diverged

_VALUE = "loss_scale"
_NUM_GOOD = "loss_scale_good_steps"


class LossScale:
    """A scale that halves after an overflow and doubles after `window_steps` steps without one. Equal on all ranks that are told the same.

    Args:
        config: The first scale, the window, and the least scale.
    """

    def __init__(self, config: LossScaleConfig) -> None:
        self.value = float(2**config.initial_power)
        self._config = config
        self._num_good = 0

    def update(self, *, is_finite: bool, step: int) -> None:
        """Take a step's outcome in.

        Args:
            is_finite: Whether its gradient was finite.
            step: Its number, for the error.

        Raises:
            Diverged: The gradient overflows although the scale is the least allowed.
        """
        if is_finite:
            self._num_good += 1
            if self._num_good >= self._config.window_steps:
                self.value, self._num_good = self.value * 2, 0
            return
        if self.value <= self._config.min_scale:
            message = f"the gradient of step {step} is not finite in fp16 at the least loss scale, {self.value:g}; wanted numbers that fit."
            hint = "set `train.precision: bf16`, lower `train.lr`, or lower `teacher.deepspeed.loss_scale.min_scale`."
            raise Diverged(message, hint=hint, step=step, loss=float("nan"))
        self.value, self._num_good = max(self.value / 2, self._config.min_scale), 0

    def scalars(self) -> Mapping[str, float]:
        """What must be kept to go on exactly."""
        return {_VALUE: self.value, _NUM_GOOD: float(self._num_good)}

    def load(self, scalars: Mapping[str, float]) -> None:
        """Restore what `scalars` gave; a training that had no scale leaves this one as it is."""
        self.value = scalars.get(_VALUE, self.value)
        self._num_good = int(scalars.get(_NUM_GOOD, self._num_good))
