"""Executors without processes: jobs are generators, and time is simulated."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from foundry_ray.search.coordinator import Coordinator
from foundry_ray.search.events import Event, Job
from foundry_ray.testing.clock import FakeClock

Run = Callable[[Job], Iterator[Event]]


class SerialExecutor:
    """Drives a coordinator with `num_slots` simulated workers; each event of a job takes `event_s` of the clock.

    Args:
        budget: Events after which the driver is "killed": `run` returns as if the process had ended there.
    """

    def __init__(self, run: Run, *, clock: FakeClock, num_slots: int = 1, event_s: float = 1.0, budget: int | None = None) -> None:
        self._run = run
        self._clock = clock
        self._num_slots = num_slots
        self._event_s = event_s
        self._budget = budget

    def run(self, coordinator: Coordinator) -> bool:
        """Until nothing is left to do, or the budget is spent. Returns whether it came to its end."""
        running: list[tuple[float, int, Iterator[Event]]] = []
        num_events = num_jobs = 0
        while True:
            while len(running) < self._num_slots and (job := coordinator.next_job()) is not None:
                heapq.heappush(running, (self._clock.monotonic_s() + self._event_s, num_jobs, self._run(job)))
                num_jobs += 1
            if not running:
                return True
            due_s, rank, events = heapq.heappop(running)
            self._clock.advance(max(0.0, due_s - self._clock.monotonic_s()))
            if self._budget is not None and num_events >= self._budget:
                return False
            num_events += 1
            if coordinator.observe(next(events)):
                heapq.heappush(running, (due_s + self._event_s, rank, events))


@dataclass(order=True, slots=True)
class _Due:
    """The next event of a worker's job, and when it comes."""

    at_s: float
    rank: int
    event: Event = field(compare=False)
    events: Iterator[Event] = field(compare=False)


class SimulatedExecutor:
    """Many workers and one driver in simulated time, to which the driver's real CPU time is charged.

    A worker trains an epoch in `epoch_s`. Like an actor of the pool, it goes on after an event only when the driver has taken note of that. The
    driver does one thing after another: what sampler, scheduler and journal cost holds up whoever waits for it.

    Args:
        cpu_s: The CPU time of this process so far, all its threads.

    Attributes:
        driver_s: CPU time that was charged.
    """

    def __init__(self, run: Run, *, clock: FakeClock, num_workers: int, epoch_s: float = 1.0, cpu_s: Callable[[], float] = time.process_time) -> None:
        self._run = run
        self._clock = clock
        self._num_workers = num_workers
        self._epoch_s = epoch_s
        self._cpu_s = cpu_s
        self._waiting: list[_Due] = []
        self._num_jobs = 0
        self._charged_s = 0.0
        self.driver_s = 0.0

    def run(self, coordinator: Coordinator) -> float:
        """Until nothing is left to do. Returns the simulated seconds that it took."""
        began_s = self._clock.monotonic_s()
        self._charged_s = self._cpu_s()
        self._fill(coordinator)
        while self._waiting:
            due = heapq.heappop(self._waiting)
            self._clock.advance(max(0.0, due.at_s - self._clock.monotonic_s()))
            goes_on = coordinator.observe(due.event)
            self._charge()
            if goes_on:
                self._push(_Due(at_s=self._clock.monotonic_s(), rank=due.rank, event=next(due.events), events=due.events))
            else:
                self._fill(coordinator)
        return self._clock.monotonic_s() - began_s

    def _fill(self, coordinator: Coordinator) -> None:
        while len(self._waiting) < self._num_workers:
            job = coordinator.next_job()
            self._charge()
            if job is None:
                return
            self._num_jobs += 1
            events = self._run(job)
            self._push(_Due(at_s=self._clock.monotonic_s(), rank=self._num_jobs, event=next(events), events=events))

    def _push(self, due: _Due) -> None:
        due.at_s += self._epoch_s if due.event.kind == "epoch" else 0.0
        heapq.heappush(self._waiting, due)

    def _charge(self) -> None:
        """Let the clock pass what the driver has computed since the last time."""
        now_s = self._cpu_s()
        self.driver_s += now_s - self._charged_s
        self._clock.advance(now_s - self._charged_s)
        self._charged_s = now_s
