"""When a checkpoint is made, and how a group ends that is asked to: the loop's `Control`, equal on all ranks.

Rank 0's clock says when one is due and rank 0 hears what the driver asks; both travel as wishes with the loop's pulse, so that all ranks act
after the same step. Decides nothing about what is in a checkpoint (`checkpoint`) and what the driver does next (`failures`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from foundry_ray.config import CheckpointConfig
from foundry_ray.errors import StoreError, StoreUnavailable
from foundry_ray.protocols import Clock, Engine
from foundry_ray.training.loop import Loop
from foundry_ray.training.preemption import Ask, answer
from foundry_ray.training.state import LoopState
from foundry_ray.types import Json

Metrics = Mapping[str, float]
_AGAIN_S = 5.0


class Writer(Protocol):
    """What saves in the background: `checkpoint.CheckpointWriter`."""

    @property
    def is_busy(self) -> bool:
        """Whether one is on its way."""

    def save(self, step: int, epoch: int, state: LoopState, meta: Mapping[str, Json]) -> None:
        """(c) Copy, and return."""

    def wait(self) -> None:
        """Until the last is committed."""

    def wait_for_part(self) -> None:
        """Until this rank's part of it is stored; on rank 0, until it is committed."""


class CheckpointControl:
    """Saves when it is time, and ends a group in good order.

    Args:
        config: When.
        writer: This rank's.
        rank: Rank 0's clock and ear count.
        clock: Time.
        asked: What the driver asks; it must not block.
        meta: What a checkpoint says beside the loop's state.
        metric: What makes an epoch better.
        steps_per_epoch: After the last of them the epoch is judged, and saved then.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        writer: Writer,
        *,
        rank: int,
        clock: Clock,
        asked: Callable[[], Ask],
        meta: Mapping[str, Json],
        metric: str,
        steps_per_epoch: int,
    ) -> None:
        self._config = config
        self._writer = writer
        self._rank = rank
        self._clock = clock
        self._asked = asked
        self._meta = meta
        self._metric = metric
        self._steps_per_epoch = steps_per_epoch
        self._saved_step = 0
        self._saved_at_s = clock.monotonic_s()

    def begin(self, step: int) -> None:
        """Training starts, or goes on from a checkpoint after so many steps."""
        self._saved_at_s, self._saved_step = self._clock.monotonic_s(), step

    def wishes(self) -> Sequence[float]:
        """Whether time is up, what the driver asks, and whether the last checkpoint is still on its way."""
        is_due = self._rank == 0 and self._clock.monotonic_s() - self._saved_at_s >= self._config.every_s
        ask = self._asked() if self._rank == 0 else Ask.NOTHING
        return float(is_due), float(ask), float(self._writer.is_busy)

    def act(self, wishes: Sequence[float], loop: Loop) -> None:
        """Between two steps. Raises Preempted where the driver has asked for the end, once the checkpoint is committed."""
        is_due, ask, is_busy = bool(wishes[0]), Ask(int(wishes[1])), bool(wishes[2])
        if ask is not Ask.NOTHING:
            self._leave(ask, loop)
        ends_epoch = loop.step == (loop.epoch + 1) * self._steps_per_epoch
        if (is_due or self._is_multiple(loop.step)) and not is_busy and not ends_epoch:
            self._save(loop, ends_epoch=False)

    def after_epoch(self, loop: Loop, engine: Engine) -> None:
        """(c) After an epoch was judged: saved if it is better, the last, or due. Raises Preempted as `act`."""
        is_due, ask, is_busy = engine.reduce(self.wishes(), mode="max")
        is_wanted = loop.is_done or best_epoch(loop.curve, self._metric) == loop.epoch
        if is_wanted or ((is_due or self._is_multiple(loop.step)) and not is_busy):
            self._save(loop, ends_epoch=True)
        if ask and not loop.is_done:
            self._leave(Ask(int(ask)), loop, ends_epoch=True)

    def finish(self, loop: Loop, engine: Engine) -> None:
        """(c) Return when the last checkpoint is committed. A store that refuses it is asked again: what it would hold is still here.

        Raises:
            StoreError: It refused for `commit_timeout_s`.
        """
        deadline_s = self._clock.monotonic_s() + self._config.commit_timeout_s
        while True:
            error = self._refused()
            is_final = error is not None and (not error.retryable or self._clock.monotonic_s() >= deadline_s)
            has_failed, is_over = engine.reduce([float(error is not None), float(is_final)], mode="max")
            if not has_failed:
                return
            if is_over:
                raise error or StoreUnavailable("the last checkpoint was not saved: another rank says why.", hint="look at the store.", uri="")
            self._clock.sleep(_AGAIN_S)
            self._save(loop, ends_epoch=True)

    def _refused(self) -> StoreError | None:
        """Of this rank. The others hear it at once: none of them looks for a manifest that rank 0 has given up."""
        try:
            self._writer.wait_for_part()
        except StoreError as error:
            return error
        return None

    def _leave(self, ask: Ask, loop: Loop, *, ends_epoch: bool = False) -> None:
        if loop.step > self._saved_step:
            self._save(loop, ends_epoch=ends_epoch)
        self._writer.wait()
        raise answer(ask)

    def _is_multiple(self, step: int) -> bool:
        """Pulses do not meet every step, so a multiple that was passed counts."""
        every = self._config.every_steps
        return every is not None and step // every > self._saved_step // every

    def _save(self, loop: Loop, *, ends_epoch: bool) -> None:
        self._saved_at_s, self._saved_step = self._clock.monotonic_s(), loop.step
        self._writer.save(loop.step, loop.epoch, loop.state(), {**self._meta, "ends_epoch": ends_epoch})


def best_epoch(curve: Sequence[Metrics], metric: str) -> int:
    """The epoch, from 1, with the highest metric; among equals the lowest validation loss, then the earliest."""
    return ranking(curve, metric)[0]


def ranking(curve: Sequence[Metrics], metric: str) -> list[int]:
    """All epochs, from 1, the best first."""
    return sorted(range(1, len(curve) + 1), key=lambda epoch: (-curve[epoch - 1][metric], curve[epoch - 1]["val_loss"], epoch))
