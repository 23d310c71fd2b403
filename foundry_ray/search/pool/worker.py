"""One warm process of a study: sets itself up once, then runs job after job, one event a call."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from foundry_ray.errors import FoundryError
from foundry_ray.protocols import Reporter
from foundry_ray.search.events import Event, Job
from foundry_ray.training.failures import is_own_bug, last_line


class Runner(Protocol):
    """Runs jobs, one after another, in one process."""

    @property
    def fingerprint(self) -> str:
        """Of the device on which latency is measured."""

    def __call__(self, job: Job) -> Iterator[Event]:
        """The events of a job, as `Job` says. Asked for what comes after a rung, it trains on; dropped, it has left its state in the store."""


class Environment(Protocol):
    """What a worker needs to run jobs. Shipped once through Ray's object store, so its arrays are shared and not copied."""

    def runner(self, reporter: Reporter) -> Runner:
        """Called once in each process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a call to a worker brings back.

    Attributes:
        event: What happened; None for the greeting, and where the process cannot go on.
        error: Why it cannot; empty where it can.
        warnings: Since the last call.
        own_bytes: Memory of the process, without what it shares with others.
        fingerprint: Of the device on which latency is measured.
    """

    event: Event | None
    error: str = ""
    warnings: tuple[str, ...]
    own_bytes: int
    fingerprint: str


class Worker:
    """The actor.

    Args:
        environment: Of the study.
    """

    def __init__(self, environment: Environment) -> None:
        self._told = Warnings()
        self._runner = environment.runner(self._told)
        self._events: Iterator[Event] = iter(())
        self._number = -1

    def greet(self) -> Answer:
        """It is set up."""
        return self._answer(None)

    def next(self, job: Job | None) -> Answer:
        """The next event: of a new job, or of the one that it is at."""
        if job is not None:
            self._number, self._events = job.number, self._runner(job)
        try:
            return self._answer(next(self._events))
        except Exception as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> Answer:
        """The border of the process. What user code raises and would raise again ends the trial; all else ends the process, and is tried again."""
        text = traceback.format_exc()
        if isinstance(error, FoundryError) or not is_own_bug(text):
            return self._answer(None, error=last_line(text))
        return self._answer(Event(kind="failed", number=self._number, error=last_line(text)))

    def _answer(self, event: Event | None, *, error: str = "") -> Answer:
        return Answer(event=event, error=error, warnings=self._told.take(), own_bytes=own_bytes(), fingerprint=self._runner.fingerprint)


def own_bytes() -> int:
    """What this process holds without what it shares with others: rows in Ray's object store count for it as soon as it has looked at them."""
    import psutil

    held = psutil.Process().memory_info()
    return int(held.rss - getattr(held, "shared", 0))


class Warnings:
    """The reporter inside a worker: epochs travel as events, warnings with them."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    def report(self, step: int, metrics: object) -> None:
        """Epochs are events already."""

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Epochs are events already."""

    def metrics(self, step: int, values: object) -> None:
        """Epochs are events already."""

    def study(self, view: object) -> None:
        """The driver shows the study."""

    def warn(self, message: str) -> None:
        """Keep a message for the driver."""
        self._messages.append(message)

    def take(self) -> tuple[str, ...]:
        """The messages since the last call."""
        taken, self._messages = tuple(self._messages), []
        return taken
