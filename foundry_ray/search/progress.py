"""What is told of a study while it runs: each result as a report, a line with the counts and the best so far, and a view of the whole."""

from __future__ import annotations

import math
from collections.abc import Iterator

from foundry_ray.observability import BestValue, RunningTrial, Spending, StudyView
from foundry_ray.protocols import Clock, Reporter, StudyReporter
from foundry_ray.search import history
from foundry_ray.search.coordinator import Coordinator
from foundry_ray.search.events import Event
from foundry_ray.search.outcome import front_of
from foundry_ray.types import Objective, TrialState

_VIEW_EVERY_S = 0.5
_LOOK_AGAIN_RATIO = 1.05
"""The front and the hypervolume of a long study cost more than all else that is shown: they are worked out again when it has grown by so much."""


class Progress:
    """A listener of a coordinator. What it does for an event costs the same however many trials there are."""

    def __init__(self, coordinator: Coordinator, *, reporter: Reporter, clock: Clock) -> None:
        self._coordinator = coordinator
        self._reporter = reporter
        self._clock = clock
        self._num_reports = 0
        self._epochs: dict[int, int] = {}
        self._best: dict[str, BestValue] = {}
        self._is_stale = True  # the best values are those of another device
        self._devices: set[str] = set()
        self._has_warned = False
        self._viewed_s = -math.inf
        self._looked_at = 0
        self._found: tuple[int, float | None] = (0, None)

    def __call__(self, event: Event) -> None:
        if event.device:
            self._note_device(event.device)
        if event.kind == "measured":
            self._is_stale = True
        elif self._is_stale:
            self._find_best()
        if event.kind == "epoch":
            self._epochs[event.number] = event.epoch
        elif event.kind == "rung":
            self._num_reports += 1
            self._reporter.report(self._num_reports, {"trial": float(event.number), "epoch": float(event.epoch), **event.values})
            self._epochs.pop(event.number, None)
            self._note_best(event.number)
        elif event.kind == "failed":
            self._reporter.warn(f"trial {event.number} failed: {event.error}")
        done, total, note = self._line(event)
        self._reporter.progress(done, total, note)
        is_last = done >= total and not self._coordinator.num_in_flight  # what it ended with is shown for long
        if isinstance(self._reporter, StudyReporter) and (is_last or self._clock.monotonic_s() - self._viewed_s >= _VIEW_EVERY_S):
            self._viewed_s = self._clock.monotonic_s()
            self._reporter.study(self._view())

    def _line(self, event: Event) -> tuple[float, float, str]:
        state = self._coordinator.course.state
        said = [f"{count} {one}" for one in TrialState if (count := state.counts[one])]
        if "accuracy" in self._best:
            said.append(f"best accuracy {self._best['accuracy'].value:.4f}")
        if event.kind == "epoch":
            said.append(f"trial {event.number} at epoch {event.epoch}")
        num_trials = len(state.records)
        return num_trials - len(state.running), max(self._coordinator.rules.budget.trials, num_trials), ", ".join(said)

    def _note_device(self, device: str) -> None:
        """A driver measures again what is of other devices when it begins; so two of them are there at once, and their latencies do not compare."""
        self._devices.add(device)
        if len(self._devices) > 1 and not self._has_warned:
            self._has_warned = True
            self._reporter.warn(
                f"latencies are measured on different devices ({', '.join(sorted(self._devices))}), and do not compare: "
                "`search.latency.device` names a resource of the nodes that are to measure."
            )

    def _find_best(self) -> None:
        """Of what is known by now; a latency that another device had does not count."""
        self._is_stale = False
        self._best.clear()
        for record in self._coordinator.course.state.records.values():
            if record.by_rung:
                self._note_best(record.trial.number)

    def _note_best(self, number: int) -> None:
        values = self._coordinator.course.state.records[number].trial.values
        for objective in (Objective(metric="accuracy", mode="max"), *self._coordinator.rules.objectives):
            value, known = values.get(objective.metric), self._best.get(objective.metric)
            sign = 1.0 if objective.mode == "max" else -1.0
            if value is not None and (known is None or sign * value > sign * known.value):
                self._best[objective.metric] = BestValue(metric=objective.metric, value=value, number=number)

    def _view(self) -> StudyView:
        coordinator = self._coordinator
        num_front, volume = self._front()
        wanted = [objective.metric for objective in coordinator.rules.objectives]
        return StudyView(
            running=tuple(self._running()),
            best=tuple(self._best[metric] for metric in wanted if metric in self._best),
            num_by_state={str(one): count for one in TrialState if (count := coordinator.course.state.counts[one])},
            num_front=num_front,
            waiting=coordinator.waiting_because(),
            spent=tuple(self._spent()),
            hypervolume=volume,
        )

    def _running(self) -> Iterator[RunningTrial]:
        state = self._coordinator.course.state
        for number in sorted(self._coordinator.in_flight):
            record = state.records[number]
            trains = bool(record.known) and record.trial.state is TrialState.RUNNING
            yield RunningTrial(
                number=number,
                doing="trains" if trains else "measures",
                epoch=max(self._epochs.get(number, 0), record.trial.resource_used),
                to_epoch=state.levels[record.target],
                params=record.trial.params,
            )

    def _spent(self) -> Iterator[Spending]:
        budget, ledger, at_s = self._coordinator.rules.budget, self._coordinator.course.ledger, self._coordinator.at_s
        hours = ledger.worker_s(at_s) / 3600.0
        yield Spending(name="trials", used=ledger.num_trials, limit=budget.trials)
        yield Spending(name="worker_hours", used=hours, limit=budget.worker_hours)
        if budget.wall_time_s is not None:
            yield Spending(name="wall_time_s", used=at_s, limit=budget.wall_time_s)
        if budget.cost is not None:
            yield Spending(name="cost", used=hours * budget.price_per_worker_hour, limit=budget.cost)

    def _front(self) -> tuple[int, float | None]:
        coordinator = self._coordinator
        reports = coordinator.course.ledger.reports
        if len(reports) > _LOOK_AGAIN_RATIO * self._looked_at:
            state, rules = coordinator.course.state, coordinator.rules
            volumes = history.hypervolumes(reports, state.records, rules.objectives)
            self._looked_at, self._found = len(reports), (len(front_of(state, rules)), volumes[-1])
        return self._found
