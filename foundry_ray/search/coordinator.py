"""Runs a study without running anything: which job is next, and what a report means.

    next_job() -> Job | None          an executor asks when it has a free worker, as often as it likes
    observe(event) -> go on?          an executor tells what a job said; at a rung the answer may be to train on in place
    died(number, error)               an executor lost the job's process, perhaps for want of memory
    on_device(fingerprint)            what latency is measured on

Between the two stands the journal: what is decided is durable before it is carried out. The order of the decisions (latencies that another device
asks for, interrupted trials, what the scheduler wants, postponed trials, finalists) is a function of the events alone, so a study that is resumed
goes on as if nothing had been.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from foundry_ray.protocols import Clock
from foundry_ray.search import budget as budgets
from foundry_ray.search import constraints, pareto
from foundry_ray.search.course import Course
from foundry_ray.search.events import Event, Job
from foundry_ray.search.history import Gain
from foundry_ray.search.journal import Journal
from foundry_ray.search.measuring import Measuring
from foundry_ray.search.rules import Rules
from foundry_ray.search.schedulers.facts import Begin, Decision, Exploit, GoOn, Wait
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import TrialState

NUM_FINALISTS = 3
"""Finished trials that a study ends with at least, where it has as many trials: fewer leave a policy nothing to choose."""
_STORE_PATIENCE_S = 1.0
"""How long a decision waits for the store while other jobs run; it is kept, and the next call asks again."""
_COMMIT_AFTER_S = 1.0
"""Results are written together with the next decision, or after this time."""


class Coordinator:
    """The decisions of one study. Not thread-safe: one executor drives it.

    Args:
        course: Told of all events that the journal held.
        journal: Opened by this driver.
    """

    def __init__(self, rules: Rules, *, course: Course, journal: Journal, clock: Clock) -> None:
        self.rules = rules
        self.course = course
        self._journal = journal
        self._clock = clock
        self._listeners: list[Callable[[Event], None]] = []
        self._in_flight: set[int] = set()
        self._interrupted = sorted(course.state.running)
        self._measuring = Measuring(course.state)
        self._undelivered: Job | None = None
        self._num_events = 0
        self._idle_since: int | None = None
        self._why = ""
        self._decided: tuple[tuple[int, bool], Decision] | None = None
        self._accuracy_limits = [one for one in rules.limits if one.metric == "accuracy"]
        self._gain = Gain(course.ledger.reports, course.state.records, rules.objectives, least=rules.budget.min_gain_per_worker_hour)
        self._opened_s, self._before_s = clock.monotonic_s(), course.ledger.at_s
        self._committed_s = self._opened_s

    @property
    def num_in_flight(self) -> int:
        """Jobs that were handed out, or wait for the store to be, and have not ended."""
        return len(self._in_flight)

    @property
    def in_flight(self) -> frozenset[int]:
        """Their trials."""
        return frozenset(self._in_flight)

    @property
    def at_s(self) -> float:
        """Seconds of the study, over all its drivers."""
        return self._before_s + self._clock.monotonic_s() - self._opened_s

    @property
    def stopped_by(self) -> str:
        """What ends the asking, as in `StudyResult`; empty as long as trials may begin."""
        return self._limit() or ("" if isinstance(self._wanted(), Begin) else "scheduler")

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call this with each event after it happened, epochs included."""
        self._listeners.append(listener)

    def on_device(self, fingerprint: str) -> None:
        """Latency is measured on this device; what is known of another one is measured again before new work begins."""
        self._measuring.on_device(fingerprint)
        self._idle_since = None

    def has_work(self) -> bool:
        """Whether anything is left to do, without deciding what."""
        if self._in_flight or self.course.state.running or self._measuring.num_left:
            return True
        return isinstance(self._decision(), (GoOn, Begin, Exploit))

    def num_startable(self, limit: int) -> int:
        """How many jobs could start now beside those in flight, as far as that shows before they are begun, at most `limit`."""
        waiting = {number for number in self.course.state.running if number not in self._in_flight}
        if waiting or self._measuring.num_left:
            to_measure = (number for number in self._measuring.left() if number not in self._in_flight)
            return min(limit, len(waiting.union(itertools.islice(to_measure, limit))))
        decision = self._decision()
        if isinstance(decision, Begin):
            return min(limit, self.rules.budget.trials - self.course.ledger.num_trials)
        return min(limit, int(isinstance(decision, (GoOn, Exploit))))

    def waiting_because(self) -> str:
        """Why the last `next_job` had no job, or what an executor said since; empty where it had one."""
        return self._why

    def say_waiting(self, why: str) -> None:
        """An executor says why a slot has nothing to do: a worker starts, or has no room."""
        self._why = why

    def next_job(self) -> Job | None:
        """The next job, durable before it is returned; None where nothing can start now (or at all, when nothing is in flight).

        A store that is silent holds a job back only as long as others are in flight; the next call asks it again.

        Raises:
            Conflict: Another driver owns the study now.
            StoreUnavailable: The store was silent for longer than its budget of retries.
        """
        if self._undelivered is None and self._idle_since != self._num_events:
            self._undelivered = self._next()
        if self._undelivered is None:
            self._idle_since = self._num_events
            self._journal.commit(wait_s=0.0)
            return None
        if not self._commit(wait_s=_STORE_PATIENCE_S if len(self._in_flight) > 1 else None):
            self._why = f"the store does not answer, and trial {self._undelivered.number} begins when that is written down"
            return None
        job, self._undelivered, self._why = self._undelivered, None, ""
        return job

    def observe(self, event: Event) -> bool:
        """Take note of what a job says. Returns whether the job should go on; where it should not, it is over.

        Raises:
            Conflict: Another driver owns the study now.
            StoreUnavailable: As `next_job`.
        """
        if event.kind == "epoch":
            self._tell(event)
            self._commit_if_due()
            return True
        if event.kind == "prepared":
            owner = self.course.state.owner_of(event.effective)
            better = self._postponed_for(event) if owner is None else None
            if better is not None:
                event = replace(event, kind="postponed", of=better)
            elif owner is None or owner == event.number:
                self._happen(_finite(event))
                return True
            else:
                event = Event(kind="duplicate", number=event.number, of=owner, duration_s=event.duration_s)
        self._in_flight.discard(event.number)
        self._happen(_finite(event))
        if event.kind == "measured":
            self._take_up_again(event.number)
        goes_on = event.kind == "rung" and self._goes_on_in_place(event.number)
        self._commit_if_due()
        return goes_on

    def died(self, number: int, error: str, *, is_out_of_memory: bool = False) -> None:
        """The process of this trial's job is gone; it is tried again from its last rung, within the budget; after want of memory, in smaller passes.

        That it is not is an event of its own: a later driver, which may have another budget, is to find what this one decided.
        """
        self._in_flight.discard(number)
        self._happen(Event(kind="died", number=number, error=error, is_out_of_memory=is_out_of_memory))
        if self.course.state.records[number].trial.num_failures > self.rules.max_failures:
            self._happen(Event(kind="failed", number=number, error=error))
        self._take_up_again(number)

    def close(self) -> None:
        """Make everything durable that is not yet, and how long this driver was at it."""
        self._record(Event(kind="close"))
        self._journal.close()

    def _happen(self, event: Event) -> None:
        self._tell(self._record(event))

    def _record(self, event: Event) -> Event:
        event = replace(event, at_s=self.at_s)
        self._journal.append(event, frees=self.course.saw(event))
        self._measuring.saw(event)
        self._num_events += 1
        return event

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    def _commit(self, *, wait_s: float | None) -> bool:
        self._committed_s = self._clock.monotonic_s()
        return self._journal.commit(wait_s=wait_s)

    def _commit_if_due(self) -> None:
        if self._clock.monotonic_s() - self._committed_s >= _COMMIT_AFTER_S:
            self._commit(wait_s=0.0)

    def _next(self) -> Job | None:
        stale = self._measuring.next(self._in_flight)
        if stale is not None:
            return self._hand_out(stale, is_measuring=True)
        interrupted = self._next_interrupted()
        if interrupted is not None:
            return self._hand_out(interrupted)
        if self._measuring.num_left:
            self._why = f"the latency of {self._measuring.num_left} models is measured on this device first"
            return None
        decision = self._decision()
        if isinstance(decision, Begin):
            return self._hand_out(self._ask(decision))
        if isinstance(decision, (GoOn, Exploit)):
            self._happen(_as_event(decision))
            return self._hand_out(decision.number)
        limit = self._limit()
        self._why = decision.why if isinstance(decision, Wait) else _LIMITS.get(limit, f"search.budget.{limit} is used up")
        return None

    def _take_up_again(self, number: int) -> None:
        """A job of a running trial is over, and it was not the last."""
        if number in self.course.state.running:
            heapq.heappush(self._interrupted, number)

    def _next_interrupted(self) -> int | None:
        """None whose graph another trial is measured for: on this device it may be no candidate."""
        unmeasured = []
        found = None
        while self._interrupted and found is None:
            number = heapq.heappop(self._interrupted)
            if number in self._measuring:
                unmeasured.append(number)
            elif number in self.course.state.running and number not in self._in_flight:
                found = number
        for number in unmeasured:
            heapq.heappush(self._interrupted, number)
        return found

    def _decision(self) -> Decision:
        """What the scheduler wants, or a finalist where it wants nothing."""
        wanted = self._wanted()
        return wanted if isinstance(wanted, (Begin, GoOn, Exploit)) else self._postponed() or self._finalist() or wanted

    def _wanted(self) -> Decision:
        key = (self._num_events, not self._limit())
        if self._decided is None or self._decided[0] != key:
            self._decided = key, self.course.scheduler.next(can_ask=key[1])
        return self._decided[1]

    def _goes_on_in_place(self, number: int) -> bool:
        if self._undelivered is not None or self._measuring.num_left:
            return False
        decision = self._decision()
        if not isinstance(decision, GoOn) or decision.number != number:
            return False
        self._happen(_as_event(decision))
        self._in_flight.add(number)
        return True

    def _ask(self, begin: Begin) -> int:
        """Begin a trial: with what was suggested, or else with what the sampler proposes."""
        state = self.course.state
        number, source = len(state.records), ""
        if state.suggestions:
            params, source = state.suggestions[0]
            attrs: Mapping[str, bool | int | float | str] = {}
        else:
            proposal = self.rules.sampler.propose(state.records, number)
            params, attrs = proposal.params, proposal.attrs
        ask = Event(kind="ask", number=number, rung=begin.rung, bracket=begin.bracket, params=params, attrs=attrs, source=source)
        self._happen(replace(ask, seed=self.rules.trial_seed))
        return number

    def _limit(self) -> str:
        """The name of what ends the asking, or nothing."""
        ledger, size = self.course.ledger, self.rules.sampler.size
        if size is not None and ledger.num_trials >= size:
            return "space"
        spent = budgets.Spent(num_trials=ledger.num_trials, wall_s=self.at_s, worker_s=ledger.worker_s(self.at_s), gain=self._gain.latest())
        return budgets.exhausted(self.rules.budget, spent)

    def _postponed_for(self, prepared: Event) -> int | None:
        """The trial for whose sake a new one is not begun yet; None where it is begun."""
        scheduler, is_suggested = self.rules.scheduler, bool(self.course.state.records[prepared.number].source)
        if scheduler.kind != "asha" or not scheduler.postpone or is_suggested or self._limit():
            return None
        return self.course.postponing.better_than(pareto.losses(prepared.values, self.rules.objectives))

    def _postponed(self) -> GoOn | None:
        """Who begins after all, where no new trial may: a budget of trials leaves the time for those that it has counted."""
        number = self.course.postponing.next() if self._limit() in _OF_TRIALS else None
        return None if number is None else GoOn(number=number, rung=0)

    def _finalist(self) -> GoOn | None:
        """Who goes on although the scheduler wants nobody to: only when no running trial can still change who is best below the last rung.

        Where all of them break a limit on accuracy there is nothing to choose: whoever is nearest to it goes on, one after another, until there are
        twice as many, and after that those who keep it already.
        """
        state, last = self.course.state, len(self.course.state.levels) - 1
        if any(state.records[number].target < last for number in state.running):
            return None
        num_ended = state.counts[TrialState.COMPLETE] + len(state.running)
        if num_ended >= NUM_FINALISTS and (state.running or self._has_choice()):
            return None
        waiting = self.course.scheduler.waiting()
        for rung in sorted({rung for _, rung in waiting}, reverse=True):
            trials = [state.records[number].trial for number, at in waiting if at == rung]
            ranking = self.rules.policy.rank(trials, self.rules.objectives, teacher_accuracy=self.rules.teacher_accuracy)
            best = min(ranking, key=self._short_of_accuracy, default=None)
            if best is not None and (num_ended < 2 * NUM_FINALISTS or not self._short_of_accuracy(best)):
                return GoOn(number=best, rung=rung + 1)
        return None

    def _has_choice(self) -> bool:
        """Whether a finished trial keeps the limits on accuracy."""
        records = self.course.state.records
        return not self._accuracy_limits or any(
            record.trial.state is TrialState.COMPLETE and not self._short_of_accuracy(number) for number, record in records.items()
        )

    def _short_of_accuracy(self, number: int) -> float:
        """By how much a trial breaks the limits on accuracy."""
        return sum(constraints.excesses(self._accuracy_limits, self.course.state.records[number].trial.values).values())

    def _hand_out(self, number: int, *, is_measuring: bool = False) -> Job:
        self._in_flight.add(number)
        return _job(self.course.state.records[number], self.course.state.levels, is_measuring=is_measuring)


_OF_TRIALS = ("", "trials", "space")
"""What ends the asking and leaves time and money; empty where the scheduler wants no new trial."""
_LIMITS: Mapping[str, str] = {
    "": "the scheduler wants no more trials",
    "space": "every point of the grid was tried",
}


def _job(record: TrialRecord, levels: tuple[int, ...], *, is_measuring: bool) -> Job:
    trial = record.trial
    return Job(
        number=trial.number,
        params=trial.params,
        seed=trial.seed,
        rung=record.target,
        from_epoch=trial.resource_used,
        to_epoch=trial.resource_used if is_measuring else levels[record.target],
        checkpoint=trial.checkpoint,
        known=record.known,
        later=() if is_measuring else levels[record.target + 1 :],
        num_halvings=record.num_memory_deaths,
    )


def _as_event(decision: GoOn | Exploit) -> Event:
    if isinstance(decision, GoOn):
        return Event(kind="start", number=decision.number, rung=decision.rung)
    return Event(kind="exploit", number=decision.number, rung=decision.rung, of=decision.donor, from_rung=decision.from_rung, params=decision.params)


def _finite(event: Event) -> Event:
    """Without what is no number: JSON has none, and a metric that is not there is the worst there is."""
    if all(map(math.isfinite, event.values.values())) and all(math.isfinite(value) for row in event.curve for value in row.values()):
        return event
    curve = tuple({name: value for name, value in row.items() if math.isfinite(value)} for row in event.curve)
    return replace(event, values={name: value for name, value in event.values.items() if math.isfinite(value)}, curve=curve)
