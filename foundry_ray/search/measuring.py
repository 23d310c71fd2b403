"""Which latencies of a study have to be measured anew, because it goes on with another device than the one that they are of."""

from __future__ import annotations

from collections.abc import Container, Iterator

from foundry_ray.search.events import Event
from foundry_ray.search.state import StudyState, TrialRecord
from foundry_ray.types import TrialState


class Measuring:
    """Each distinct graph once, in the order of the trials; by the next trial that has it where one fails at it.

    A trial that failed, or that was never prepared, is of no interest; what broke a constraint before it was trained stays out as well.
    """

    def __init__(self, state: StudyState) -> None:
        self._state = state
        self._device = ""
        self._graph_of: dict[int, str] = {}
        self._left: dict[str, list[int]] = {}  # by graph, those whose latency is not known here yet

    def on_device(self, device: str) -> None:
        """Work is done on this device from now on; only the first call counts."""
        if self._device or not device:
            return
        self._device = device
        for number, record in self._state.records.items():
            if self._is_stale(record):
                graph = self._graph_of[number] = record.graph or f"of trial {number}"
                self._left.setdefault(graph, []).append(number)

    def __contains__(self, number: int) -> bool:
        """Whether this trial's latency is not known here yet."""
        return number in self._left.get(self._graph_of.get(number, ""), ())

    @property
    def num_left(self) -> int:
        """Graphs whose latency is not known here yet."""
        return len(self._left)

    def left(self) -> Iterator[int]:
        """Numbers of the trials to measure, one of each graph."""
        return (numbers[0] for numbers in self._left.values())

    def next(self, busy: Container[int]) -> int | None:
        """A trial to measure now: none that is busy."""
        return next((number for number in self.left() if number not in busy), None)

    def saw(self, event: Event) -> None:
        """Something happened to a trial. What was measured is done, also where the worker that did it has yet another device."""
        graph = self._graph_of.get(event.number, "")
        if graph not in self._left:
            return
        stale = [number for number in self._left[graph] if self._is_stale(self._state.records[number])]
        if stale and event.kind != "measured":
            self._left[graph] = stale
        else:
            del self._left[graph]

    def _is_stale(self, record: TrialRecord) -> bool:
        trial = record.trial
        is_lost = trial.state is TrialState.FAILED or (trial.state is TrialState.INFEASIBLE and not record.by_rung)
        return bool(record.known) and trial.device != self._device and not is_lost and record.duplicate_of is None
