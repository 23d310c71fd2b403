"""What one trial does: build the student, reject it cheaply, train it from rung to rung, keep the state.

What a rung reports is what would be shipped (int8 is simulated). A trial is a prefix of the training that the chosen one gets, so its checkpoint is
where that training goes on. At a rung the job waits for an answer: asked for its next event, it trains on in place; dropped, it has left its state
in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from foundry_ray.errors import ConfigError, RecipeInfeasible, ResourcesUnavailable, TrainingError, WorkerGroupFailed
from foundry_ray.protocols import ArtifactStore, Clock, LatencyMeter, Reporter
from foundry_ray.search.events import Event, Job
from foundry_ray.search.trial.context import Phases, TrialContext
from foundry_ray.search.trial.place import Place
from foundry_ray.types import Trial

if TYPE_CHECKING:
    from foundry_ray.compression import TrainedStudent
    from foundry_ray.search.trial.gang import Gang, GangTraining
    from foundry_ray.search.trial.students import Student
    from foundry_ray.search.trial.training import Training, Work
    from foundry_ray.training.shape import Shape

_KEPT = 2
_MB = 1e6


def _nothing() -> None:
    """The default of `between_steps`."""


class TrialRunner:
    """Runs jobs of one study, one after another, in one process; each begins with the process as this one found it.

    Args:
        meter: Measures a graph before it is trained.
        between_steps: Called before each training step; blocks while somebody measures on this node.
        device: `cpu` or `cuda:<index>`.
        room_bytes: Memory for a trial's tensors on that device; None where nobody says, and then it is found out by training.
        gang: Starts the workers of a trial that several train; None where this process trains.
    """

    def __init__(
        self,
        context: TrialContext,
        *,
        store: ArtifactStore,
        meter: LatencyMeter,
        clock: Clock,
        reporter: Reporter,
        between_steps: Callable[[], None] = _nothing,
        device: str = "cpu",
        room_bytes: int | None = None,
        gang: Gang | None = None,
    ) -> None:
        from foundry_ray.search.isolation import Isolation
        from foundry_ray.search.trial.place import Arrays
        from foundry_ray.search.trial.screening import Screening
        from foundry_ray.search.trial.students import Students

        self._phases = Phases(clock)
        self._place = Place(
            context=context,
            arrays=Arrays(context),
            store=store,
            clock=clock,
            reporter=reporter,
            device=device,
            between_steps=between_steps,
            room_bytes=room_bytes,
            phases=self._phases,
        )
        self._gang = gang
        self._students = Students(context)
        self._screening = Screening(self._place, meter)
        self._isolation = Isolation.taken()

    @property
    def fingerprint(self) -> str:
        """Of the device on which latency is measured."""
        return self._screening.device

    @property
    def seconds(self) -> Mapping[str, float]:
        """What all jobs so far have spent their time on, by phase; `training` is without `calibrate`, and `waiting` is for others."""
        return self._phases.seconds

    def __call__(self, job: Job) -> Iterator[Event]:
        """The events of a job, as `Job` says. An executor may stop asking after any of them.

        Raises:
            StoreError: A checkpoint cannot be read or written.
            WorkerGroupFailed: One of a trial's workers is gone.
        """
        told_s = self._phases.busy_s
        with self._phases.within("reset"):
            self._isolation.begin(job.seed)
        for event in self._answered(job):
            if event.kind not in ("prepared", "epoch"):  # from where the job goes on
                event, told_s = replace(event, duration_s=self._phases.busy_s - told_s), self._phases.busy_s
            yield event

    def finish(self, trial: Trial, *, prefix: str) -> TrainedStudent:
        """Train on from the trial's last rung to the full budget, with a checkpoint under `prefix` after each epoch, from which it resumes.

        The process is left as it was.
        """
        from foundry_ray.compression import TrainedStudent
        from foundry_ray.search.isolation import isolated
        from foundry_ray.search.trial.training import Training

        store, own = self._place.store, sorted(info.key for info in self._place.store.list(f"{prefix}/"))
        with isolated(trial.seed):
            student = self._made(trial)
            checkpoint = own[-1] if own else trial.checkpoint
            training = Training(self._work(trial, self._shape(trial, student), prefix=prefix, checkpoint=checkpoint), student, self._place)
            while not training.loop.is_done:
                before = training.epoch
                training.run_epoch()
                if training.epoch > before:
                    self._place.reporter.report(training.epoch, training.rows(after=before)[-1])
                    own.append(training.save())
                while len(own) > _KEPT:
                    store.delete(own.pop(0))
        curve = training.rows(after=0)
        accuracy = {name: value for name, value in (curve[-1] if curve else trial.values).items() if name in ("accuracy", "val_loss")}
        return TrainedStudent(model=training.loop.eval_model(), curve=tuple(curve), val_metrics=accuracy, recipe=student.recipe, notes=student.notes)

    def _answered(self, job: Job) -> Iterator[Event]:
        """The events of a job; errors that another process would meet again are events too."""
        try:
            yield from self._run(job)
        except RecipeInfeasible as error:
            yield Event(kind="failed" if job.known else "infeasible", number=job.number, excess=1.0, error=error.message)
        except WorkerGroupFailed:
            raise
        except (TrainingError, ConfigError, ResourcesUnavailable) as error:
            yield Event(kind="failed", number=job.number, error=error.message)

    def _run(self, job: Job) -> Iterator[Event]:
        student = self._made(job)
        if job.to_epoch == job.from_epoch:
            yield self._screening.measured(job, student)
            return
        shape = self._shape(job, student, num_workers=self._gang.num_workers if self._gang else 1, num_halvings=job.num_halvings)
        if not job.known:
            screened = self._screening.screened(job, student)
            yield screened
            if screened.kind != "prepared":
                return
        prefix = f"{self._place.context.prefix}/{job.number:06d}"
        yield from self._rungs(job, self._begun(self._work(job, shape, prefix=prefix, checkpoint=job.checkpoint), student))

    def _rungs(self, job: Job, training: Training | GangTraining) -> Iterator[Event]:
        """Train to one rung after the other; whoever asks for what comes after a rung wants the next one."""
        told = job.from_epoch
        for rung, to_epoch in enumerate((job.to_epoch, *job.later), job.rung):
            since = told
            for _ in training.to(to_epoch):
                for row in training.rows(after=told):  # what was told before a checkpoint was lost, or memory ran out, is not told again
                    told = int(row["epoch"])
                    yield Event(kind="epoch", number=job.number, epoch=told, values=row)
            curve = training.rows(after=since)
            values = {name: value for name, value in curve[-1].items() if name in ("accuracy", "val_loss", "loss")}
            yield Event(kind="rung", number=job.number, rung=rung, epoch=told, values=values, curve=tuple(curve), checkpoint=training.save())

    def _made(self, trial: Job | Trial) -> Student:
        with self._phases.within("build"):
            return self._students.make(trial.params, trial.seed)

    def _work(self, trial: Job | Trial, shape: Shape, *, prefix: str, checkpoint: str | None) -> Work:
        from foundry_ray.search.trial.training import Work

        return Work(
            number=trial.number,
            params=trial.params,
            seed=trial.seed,
            make=partial(self._made, trial),
            shape=shape,
            prefix=prefix,
            checkpoint=checkpoint,
        )

    def _begun(self, work: Work, student: Student) -> Training | GangTraining:
        from foundry_ray.search.trial.gang import GangTraining
        from foundry_ray.search.trial.training import Training

        return GangTraining(work, student, self._place, self._gang) if self._gang else Training(work, student, self._place)

    def _shape(self, trial: Job | Trial, student: Student, *, num_workers: int = 1, num_halvings: int = 0) -> Shape:
        """The largest passes that fit the room, halved so often, as far as they can be. Raises RecipeInfeasible where none fit."""
        from foundry_ray.search.trial.fitting import shape_within
        from foundry_ray.training.shape import halved

        with self._phases.within("memory"):
            shape = shape_within(self._place, student, num_workers=num_workers)
        if num_halvings:
            for _ in range(num_halvings):
                shape = halved(shape) or shape
            self._place.reporter.warn(
                f"trial {trial.number} was ended because its node had no memory left; it goes on in passes of {shape.micro_batch_size} rows, "
                f"the same batch of {shape.batch_size}."
            )
        elif shape.accumulation > 1:
            self._place.reporter.warn(
                f"trial {trial.number} trains in passes of {shape.micro_batch_size} rows, the same batch of {shape.batch_size}: "
                f"its slot has {(self._place.room_bytes or 0) / _MB:.0f} MB."
            )
        return shape
