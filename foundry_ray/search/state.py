"""What the events add up to: the trials of a study and the rungs that they reached.

`StudyState.apply` is the only way in which a trial changes, while a study runs and when it is replayed alike; so a resumed study
knows exactly what the interrupted one knew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from foundry_ray.search import pareto
from foundry_ray.search.events import Event
from foundry_ray.search.schedulers import Rung
from foundry_ray.types import CompressionRecipe, Objective, Scalar, Trial, TrialState

RecipeOf = Callable[[Mapping[str, Scalar]], CompressionRecipe]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A trial with what the study needs to know of it.

    Attributes:
        target: Index of the rung that it runs to, or reached.
        by_rung: Metrics at each rung that it reached.
        known: What was measured before training; empty until it is prepared.
        effective: Hash of what it really is; empty until it is prepared.
        duplicate_of: The trial whose values answer for it.
    """

    trial: Trial
    target: int = 0
    by_rung: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    known: Mapping[str, float] = field(default_factory=dict)
    effective: str = ""
    excess: float = 0.0
    duplicate_of: int | None = None
    attrs: Mapping[str, Scalar] = field(default_factory=dict)


class StudyState:
    """All trials by number.

    Args:
        recipe_of: The recipe that parameters stand for.
        num_rungs: How many rungs a trial climbs; the last one completes it.
        max_failures: Deaths of a trial's process before the trial counts as failed.
    """

    def __init__(self, *, recipe_of: RecipeOf, num_rungs: int, max_failures: int) -> None:
        self._recipe_of = recipe_of
        self.num_rungs = num_rungs
        self._max_failures = max_failures
        self.records: dict[int, TrialRecord] = {}
        self._owners: dict[str, int] = {}

    def replay(self, events: Sequence[Event]) -> None:
        """Apply all events in order."""
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Let one event happen."""
        if event.kind in ("open", "epoch"):
            return
        if event.kind == "ask":
            self.records[event.number] = self._asked(event)
            return
        self.records[event.number] = _CHANGES[event.kind](self, self.records[event.number], event)

    def owner_of(self, effective: str) -> int | None:
        """The trial that is this model with these hyperparameters, if there is one."""
        return self._owners.get(effective)

    def rungs(self, objectives: Sequence[Objective]) -> list[Rung]:
        """The rungs from which trials go on, lowest first: all but the last."""
        found = []
        for index in range(self.num_rungs - 1):
            here = [record for record in self.records.values() if index in record.by_rung]
            points = {record.trial.number: pareto.losses(record.by_rung[index], objectives) for record in here}
            gone = {record.trial.number for record in here if record.target > index or record.trial.state is TrialState.FAILED}
            found.append(Rung(points=points, gone_on=gone))
        return found

    def trials(self) -> list[Trial]:
        """All trials in the order of their numbers, as they stand."""
        return [self.records[number].trial for number in sorted(self.records)]

    def _asked(self, event: Event) -> TrialRecord:
        trial = Trial(
            trial_id=f"t{event.number:05d}",
            number=event.number,
            params=dict(event.params),
            recipe=self._recipe_of(event.params),
            state=TrialState.RUNNING,
            seed=event.seed,
        )
        return TrialRecord(trial=trial, target=event.rung, attrs=dict(event.attrs))

    def _start(self, record: TrialRecord, event: Event) -> TrialRecord:
        return replace(record, target=event.rung, trial=replace(record.trial, state=TrialState.RUNNING))

    def _prepared(self, record: TrialRecord, event: Event) -> TrialRecord:
        self._owners.setdefault(event.effective, event.number)
        return replace(record, known=dict(event.values), effective=event.effective, trial=replace(record.trial, values=dict(event.values)))

    def _rung(self, record: TrialRecord, event: Event) -> TrialRecord:
        trial = replace(
            record.trial,
            state=TrialState.COMPLETE if event.rung == self.num_rungs - 1 else TrialState.WAITING,
            rung=event.rung,
            resource_used=event.epoch,
            values={**record.known, **event.values},
            curve=(*record.trial.curve, *event.curve),
            checkpoint=event.checkpoint,
            duration_s=record.trial.duration_s + event.duration_s,
        )
        return replace(record, by_rung={**record.by_rung, event.rung: trial.values}, trial=trial)

    def _duplicate(self, record: TrialRecord, event: Event) -> TrialRecord:
        original = self.records[event.of].trial
        error = f"the same as trial {event.of} after rounding, whose values these are"
        return replace(record, duplicate_of=event.of, trial=replace(record.trial, state=TrialState.STOPPED, values=original.values, error=error))

    def _infeasible(self, record: TrialRecord, event: Event) -> TrialRecord:
        trial = replace(record.trial, state=TrialState.INFEASIBLE, values=dict(event.values), error=event.error, duration_s=event.duration_s)
        return replace(record, excess=event.excess, trial=trial)

    def _died(self, record: TrialRecord, event: Event) -> TrialRecord:
        num_failures = record.trial.num_failures + 1
        state = TrialState.FAILED if num_failures > self._max_failures else TrialState.RUNNING
        return replace(record, trial=replace(record.trial, state=state, num_failures=num_failures, error=event.error))

    def _failed(self, record: TrialRecord, event: Event) -> TrialRecord:
        return replace(record, trial=replace(record.trial, state=TrialState.FAILED, error=event.error))


_CHANGES: Mapping[str, Callable[[StudyState, TrialRecord, Event], TrialRecord]] = {
    "start": StudyState._start,
    "prepared": StudyState._prepared,
    "rung": StudyState._rung,
    "duplicate": StudyState._duplicate,
    "infeasible": StudyState._infeasible,
    "died": StudyState._died,
    "failed": StudyState._failed,
}
