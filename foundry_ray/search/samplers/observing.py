"""What a sampler gets to see of a study: the trials at one rung, with broken constraints as such and running trials as running.

Values of different rungs do not compare, so all are taken at one. `Observer` keeps the answer up to date: records are frozen and replaced
when something happens, so only those that are other objects than before are looked at again. What it answers is a function of the records alone.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from foundry_ray.search import pareto
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import Objective, Scalar, TrialState

_POSTPONED = 1e-3
"""Excess of a trial that waits because the front can be extended with less: it breaks nothing, so it is nearer to a candidate than who does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A trial as a sampler sees it.

    Attributes:
        losses: At the rung where all are compared; empty where there are none.
        excess: Above 0 where it broke a constraint, failed, can be no candidate, or is postponed. Such a trial has no losses.
    """

    number: int
    params: Mapping[str, Scalar]
    losses: tuple[float, ...] = ()
    excess: float = 0.0

    @property
    def is_running(self) -> bool:
        """Whether its result is not known yet."""
        return not self.losses and not self.excess


class Observer:
    """The observations of a study.

    Args:
        enough: Results that a rung needs; the highest that has them is the one at which trials are compared (BOHB, arXiv 1807.01774, section 4.2),
            the lowest where none has. None: always the lowest.
    """

    def __init__(self, objectives: Sequence[Objective], *, enough: int | None) -> None:
        self._objectives = objectives
        self._enough = enough
        self._records: dict[int, TrialRecord] = {}
        self._num_at: Counter[int] = Counter()
        self._copies: defaultdict[int, set[int]] = defaultdict(set)
        self._rung = 0
        self.found: dict[int, Observation] = {}

    def update(self, records: Mapping[int, TrialRecord], changed: Iterable[int]) -> set[int]:
        """Look again at the records that changed. Returns the numbers whose observation is another one now, is new, or is gone."""
        stale = set(changed)
        for number in stale:
            self._count(records[number])
        stale |= {copy for number in stale for copy in self._copies.get(number, ())}
        rung = self._best_rung()
        if rung != self._rung:
            self._rung = rung
            stale = set(records)
        return {number for number in stale if self._look(records, number)}

    def _count(self, record: TrialRecord) -> None:
        before = self._records.get(record.trial.number)
        self._num_at.update(_results(record).keys())
        if before is not None:
            self._num_at.subtract(_results(before).keys())
        if record.duplicate_of is not None:
            self._copies[record.duplicate_of].add(record.trial.number)
        self._records[record.trial.number] = record

    def _best_rung(self) -> int:
        if self._enough is None:
            return 0
        return max((rung for rung, count in self._num_at.items() if count >= self._enough), default=0)

    def _look(self, records: Mapping[int, TrialRecord], number: int) -> bool:
        """Whether the observation of this trial is another one than before."""
        before, now = self.found.get(number), self._observe(records, records[number])
        if now is None:
            return self.found.pop(number, None) is not None
        if now == before:
            return False
        self.found[number] = now
        return True

    def _observe(self, records: Mapping[int, TrialRecord], record: TrialRecord) -> Observation | None:
        trial = record.trial
        source = record if record.duplicate_of is None else records[record.duplicate_of]
        seen = Observation(number=trial.number, params=trial.params)
        if source.trial.dominated or source.trial.state is TrialState.INFEASIBLE:
            return replace(seen, excess=source.excess or 1.0)
        if source.is_postponed:
            return replace(seen, excess=_POSTPONED)
        values = _results(source).get(self._rung) if source is record or not source.own_from else None
        losses = () if values is None else pareto.losses(values, self._objectives)
        if losses and all(map(math.isfinite, losses)):
            return replace(seen, losses=losses)
        if source.trial.state is TrialState.FAILED:
            return replace(seen, excess=1.0)
        return seen if source.trial.state is TrialState.RUNNING else None


def _results(record: TrialRecord) -> Mapping[int, Mapping[str, float]]:
    """Metrics by rung, but for those that other parameters reached before this trial took over their weights."""
    return {rung: values for rung, values in record.by_rung.items() if rung >= record.own_from} if record.own_from else record.by_rung
