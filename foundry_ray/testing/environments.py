"""Synthetic trials for real actors, which die, hang, err and grow on demand."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from foundry_ray.clock import SystemClock
from foundry_ray.protocols import Reporter
from foundry_ray.search.events import Event, Job
from foundry_ray.testing.search import SyntheticRunner

Fate = Literal["dies", "hangs", "errs"]
_LONG_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticEnvironment:
    """What an actor needs to run synthetic trials. Picklable.

    Attributes:
        folder: Where each process leaves a file with its number, and the victim a mark.
        event_s: Real time that each event takes.
        victim: The trial that something happens to after its first event, once.
        fate: What: its process dies (kill -9), says nothing any more, or meets an error of the user's.
        growth_bytes: What each job leaves behind in its process.
        max_processes: All that come up; those after them break.
    """

    folder: Path
    event_s: float = 0.0
    victim: int = -1
    fate: Fate = "dies"
    growth_bytes: int = 0
    max_processes: int | None = None

    def runner(self, reporter: Reporter) -> SyntheticWorker:
        """See `pool.worker.Environment`."""
        if self.max_processes is not None and self.num_processes() >= self.max_processes:
            raise ValueError("this environment is broken")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"process-{os.getpid()}").touch()
        return SyntheticWorker(self)

    def num_processes(self) -> int:
        """How many processes came up so far."""
        return len(list(self.folder.glob("process-*")))


class SyntheticWorker:
    """Runs synthetic jobs in one process, slowly."""

    fingerprint = "here"

    def __init__(self, environment: SyntheticEnvironment) -> None:
        self._environment = environment
        self._run = SyntheticRunner(device=self.fingerprint)
        self._left: list[bytearray] = []

    def __call__(self, job: Job) -> Iterator[Event]:
        clock = SystemClock()
        self._left.append(bytearray(os.urandom(1)) * self._environment.growth_bytes)
        for event in self._run(job):
            clock.sleep(self._environment.event_s)
            yield event
            if job.number == self._environment.victim and not (self._environment.folder / "mark").exists():
                (self._environment.folder / "mark").touch()
                self._meet_fate(clock)

    def _meet_fate(self, clock: SystemClock) -> None:
        if self._environment.fate == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._environment.fate == "hangs":
            clock.sleep(_LONG_S)
        raise ValueError("the user's optimizer is broken")
