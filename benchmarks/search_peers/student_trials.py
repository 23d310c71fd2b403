"""Real student trials one after another in one actor: how long they take, and what of it is training and measuring.

    FOUNDRY_HOME=HOME PYTHONPATH=. python -m benchmarks.search_peers.student_trials FOLDER STUDENTS.json NUM_TRIALS

The study is the product's: TPE with three objectives over the shipped joint space, rungs after 1 and 3 epochs, the journal in a folder. With one
actor nothing overlaps, so what is neither training nor measuring is all the rest: proposing, deciding, building, exporting, checkpoints, the journal,
and the way to the actor and back. Writes FOLDER/students.jsonl: a line for each rung, told in the actor: its trial, the time, and the seconds of each
phase so far.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.search_peers.executing import execute
from benchmarks.search_table import driving, students
from foundry_ray.clock import SystemClock
from foundry_ray.config import SchedulerConfig, SearchConfig, TrialConfig
from foundry_ray.context import open_context
from foundry_ray.protocols import Reporter
from foundry_ray.search.events import Event, Job
from foundry_ray.search.samplers import Sampler
from foundry_ray.search.space import load_space
from foundry_ray.search.trial import TrialContext, TrialRunner
from foundry_ray.types import from_json

_RUNGS = SchedulerConfig(kind="asha", rungs=(1, 3))
_ALONE = TrialConfig(cpus=float(os.cpu_count() or 1))


class NotingRunner:
    """A trial runner that notes what it spends its time on."""

    def __init__(self, run: TrialRunner, log: Path) -> None:
        self._run = run
        self._log = log

    @property
    def fingerprint(self) -> str:
        """See `pool.worker.Runner`."""
        return self._run.fingerprint

    def __call__(self, job: Job) -> Iterator[Event]:
        for event in self._run(job):
            if event.kind == "rung":
                with self._log.open("a") as stream:
                    stream.write(json.dumps({"trial": job.number, "at_s": time.time(), "seconds": dict(self._run.seconds)}) + "\n")
            yield event


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentEnvironment:
    """What the actor needs."""

    made: students.Students
    shared: TrialContext
    log: Path

    def runner(self, reporter: Reporter) -> NotingRunner:
        """See `pool.worker.Environment`."""
        return NotingRunner(students.runner(self.made, self.shared, reporter=reporter), self.log)


def main(folder: Path, made: students.Students, num_trials: int) -> None:
    """Connect, and run the study."""
    log = folder / "students.jsonl"
    log.unlink(missing_ok=True)
    with open_context(f"file://{folder}/store-{secrets.token_hex(4)}") as context:
        shared = students.shared_context(made, reporter=context.reporter)
        space = load_space("joint_cnn", SearchConfig())
        coordinator = driving.coordinator(
            space,
            Sampler(kind="tpe", space=space, objectives=space.objectives, seed=0),
            scheduler=_RUNGS,
            num_trials=num_trials,
            seed=shared.seed,
            clock=SystemClock(),
            store=context.store,
        )
        execute(coordinator, StudentEnvironment(made=made, shared=shared, log=log), context=context, trial=_ALONE)


if __name__ == "__main__":
    main(Path(sys.argv[1]), from_json(students.Students, json.loads(Path(sys.argv[2]).read_text()), what="students"), int(sys.argv[3]))
