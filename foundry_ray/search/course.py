"""The course of a study so far, added up event by event: its trials, what its scheduler was told, what was spent, which checkpoints are needed.

What is told while a study runs is told again, in the same order, when it is replayed; so all of it is a function of the journal.
"""

from __future__ import annotations

from collections.abc import Sequence

from foundry_ray.search.budget import Ledger
from foundry_ray.search.checkpoints import Checkpoints
from foundry_ray.search.events import Event
from foundry_ray.search.postponing import Postponing
from foundry_ray.search.rules import Rules
from foundry_ray.search.schedulers import make_scheduler
from foundry_ray.search.state import StudyState
from foundry_ray.search.told import facts
from foundry_ray.types import TrialState

_HAVE_SEATS = ("hyperband", "pbt")
"""Schedulers that deal out a number of places. Trials of earlier studies take none, and these schedulers are told nothing of them."""


class Course:
    """See the module.

    Args:
        prefix: Where the trials of this study keep their checkpoints.
    """

    def __init__(self, rules: Rules, *, prefix: str) -> None:
        self.scheduler = make_scheduler(rules.scheduler, rules.space, seed=rules.seed)
        self.state = StudyState(recipe_of=rules.recipe_of, levels=self.scheduler.levels)
        self.ledger = Ledger()
        self.checkpoints = Checkpoints(prefix, have_takers=rules.scheduler.kind == "pbt")
        self.postponing = Postponing(last_rung=len(self.scheduler.levels) - 1)
        self._objectives = rules.objectives
        self._have_seats = rules.scheduler.kind in _HAVE_SEATS

    def saw(self, event: Event) -> list[str]:
        """Take note of an event. Returns the checkpoints that nobody needs once it is durable."""
        records = self.state.records
        before = records.get(event.number)
        were_out = {number for number in self._measured_by(event) if records[number].trial.state is TrialState.INFEASIBLE}
        self.state.apply(event)
        record = records.get(event.number)
        done = before.trial.resource_used if before is not None else 0
        self.ledger.saw(event, num_epochs=record.trial.resource_used - done if record is not None else 0)
        if record is None:
            return []
        for fact in facts(event, self.state, self._objectives, were_out=were_out):
            if not (self._have_seats and records[fact.number].is_adopted):
                self.scheduler.saw(fact)
            self.postponing.saw(fact)
        return self.checkpoints.saw(event, record)

    def _measured_by(self, event: Event) -> Sequence[int]:
        return self.state.sharing_graph(event.number) if event.kind == "measured" else ()
