"""Which latencies of a study have to be measured anew, because it goes on with another device than the one that they are of."""

from __future__ import annotations

from collections.abc import Container

from foundry_ray.search.state import StudyState, TrialRecord
from foundry_ray.types import TrialState


class Measuring:
    """Each distinct graph once, in the order of the trials.

    A trial that failed, or that was never prepared, is of no interest; what broke a constraint before it was trained stays out as well.
    """

    def __init__(self, state: StudyState) -> None:
        self._state = state
        self._device = ""
        self._left: list[int] = []

    def on_device(self, device: str) -> None:
        """Work is done on this device from now on; only the first call counts."""
        if self._device or not device:
            return
        self._device = device
        graphs: set[str] = set()
        for number, record in self._state.records.items():
            if self._is_stale(record) and (not record.graph or record.graph not in graphs):
                graphs.add(record.graph)
                self._left.append(number)

    def left(self) -> list[int]:
        """Numbers of the trials, one of each graph, whose latency is not known here yet."""
        self._left = [number for number in self._left if self._is_stale(self._state.records[number])]
        return self._left

    def next(self, busy: Container[int]) -> int | None:
        """A trial to measure now: none that is busy."""
        return next((number for number in self._left and self.left() if number not in busy), None)

    def _is_stale(self, record: TrialRecord) -> bool:
        trial = record.trial
        return bool(record.known) and trial.device != self._device and trial.state is not TrialState.FAILED and record.duplicate_of is None
