"""Runs a study without running anything: which job is next, and what a report means.

    next_job() -> Job | None          an executor asks when it has a free slot
    observe(event) -> go on?          an executor tells what a job said
    died(number, error)               an executor lost the job's process

Between the two stands the journal: what is decided is durable before it is carried out. The order of the decisions (interrupted
trials, promotions, new trials, finalists) is a function of the state alone, so a study that is resumed goes on as if nothing had been.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from foundry_ray.config import BudgetConfig, SchedulerConfig
from foundry_ray.protocols import Clock
from foundry_ray.search import schedulers
from foundry_ray.search.events import Event, Job
from foundry_ray.search.journal import Journal
from foundry_ray.search.policy import Policy
from foundry_ray.search.sampler import Sampler
from foundry_ray.search.schedulers import Promotion
from foundry_ray.search.state import StudyState, TrialRecord
from foundry_ray.types import TrialState

NUM_FINALISTS = 3
"""Finished trials that a study ends with at least, where it has as many trials: fewer leave a policy nothing to choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a study decides by.

    Attributes:
        trial_seed: Seed of every trial: all see the same batches, so that they differ by their parameters alone.
    """

    scheduler: SchedulerConfig
    budget: BudgetConfig
    sampler: Sampler
    policy: Policy
    teacher_accuracy: float
    trial_seed: int


class Coordinator:
    """The decisions of one study. Not thread-safe: one executor drives it.

    Args:
        state: As replayed from the journal.
        journal: Opened by this driver.
        on_change: Called with the event after each change that a user may want to see.
    """

    def __init__(self, rules: Rules, *, state: StudyState, journal: Journal, clock: Clock, on_change: Callable[[Event], None] | None = None) -> None:
        self._rules = rules
        self._state = state
        self._journal = journal
        self._clock = clock
        self._on_change = on_change or (lambda event: None)
        self._resources = schedulers.resources(rules.scheduler)
        self._in_flight: set[int] = set()
        self._started_s = clock.monotonic_s()

    @property
    def num_in_flight(self) -> int:
        """Jobs that were handed out and have not ended."""
        return len(self._in_flight)

    def has_work(self) -> bool:
        """Whether anything is left to do, without deciding what."""
        return (
            bool(self._in_flight)
            or self._interrupted() is not None
            or self._promotion() is not None
            or self._may_ask()
            or self._finalist() is not None
        )

    def next_job(self) -> Job | None:
        """The next job, durable before it is returned; None where nothing can start now (or at all, when nothing is in flight).

        Raises:
            Conflict: Another driver owns the study now.
        """
        job = self._interrupted() or self._go_on(self._promotion()) or self._ask() or self._go_on(self._finalist())
        self._journal.commit()
        if job is not None:
            self._in_flight.add(job.number)
        return job

    def observe(self, event: Event) -> bool:
        """Take note of what a job says. Returns whether the job should go on; where it should not, it is over."""
        if event.kind == "epoch":
            self._on_change(event)
            return True
        if event.kind == "prepared":
            owner = self._state.owner_of(event.effective)
            if owner is None or owner == event.number:
                self._happen(event)
                return True
            event = Event(kind="duplicate", number=event.number, of=owner)
        self._in_flight.discard(event.number)
        self._happen(event)
        return False

    def died(self, number: int, error: str) -> None:
        """The process of this trial's job is gone; it is tried again from its last rung, within the budget."""
        self._in_flight.discard(number)
        self._happen(Event(kind="died", number=number, error=error))

    def close(self) -> None:
        """Make everything durable that is not yet."""
        self._journal.commit()

    def _happen(self, event: Event) -> None:
        self._journal.append(event)
        self._state.apply(event)
        self._on_change(event)

    def _interrupted(self) -> Job | None:
        for number in sorted(self._state.records):
            record = self._state.records[number]
            if record.trial.state is TrialState.RUNNING and number not in self._in_flight:
                return self._job(record)
        return None

    def _promotion(self) -> Promotion | None:
        return schedulers.promotable(self._state.rungs(self._rules.sampler.objectives), self._rules.scheduler.reduction_factor)

    def _go_on(self, promotion: Promotion | None) -> Job | None:
        if promotion is None:
            return None
        self._happen(Event(kind="start", number=promotion.number, rung=promotion.from_rung + 1))
        return self._job(self._state.records[promotion.number])

    def _may_ask(self) -> bool:
        budget = self._rules.budget
        is_in_time = budget.wall_time_s is None or self._clock.monotonic_s() - self._started_s < budget.wall_time_s
        return is_in_time and len(self._state.records) < budget.trials

    def _ask(self) -> Job | None:
        if not self._may_ask():
            return None
        number = len(self._state.records)
        proposal = self._rules.sampler.propose(self._state.records, number)
        self._happen(Event(kind="ask", number=number, params=proposal.params, attrs=proposal.attrs, seed=self._rules.trial_seed))
        return self._job(self._state.records[number])

    def _finalist(self) -> Promotion | None:
        """Only when no job in flight can still change who is best below the last rung."""
        last = len(self._resources) - 1
        if self._may_ask() or any(self._state.records[number].target < last for number in self._in_flight):
            return None
        finalists = [
            record
            for record in self._state.records.values()
            if record.target == last and record.trial.state in (TrialState.RUNNING, TrialState.COMPLETE)
        ]
        ranking = self._rules.policy.rank(self._state.trials(), self._rules.sampler.objectives, teacher_accuracy=self._rules.teacher_accuracy)
        rungs = self._state.rungs(self._rules.sampler.objectives)
        return schedulers.finalist(rungs, ranking, num_finalists=len(finalists), wanted=NUM_FINALISTS)

    def _job(self, record: TrialRecord) -> Job:
        trial = record.trial
        return Job(
            number=trial.number,
            params=trial.params,
            seed=trial.seed,
            rung=record.target,
            from_epoch=trial.resource_used,
            to_epoch=self._resources[record.target],
            checkpoint=trial.checkpoint,
            known=record.known,
        )
