"""A trial's training, from a checkpoint to the next: the loop, its state in the store, and what happens where memory runs out.

Where it does, the batch goes in passes of half the rows from the last checkpoint on, as it does for a teacher (`training.failures`); with one row
in a pass the trial has failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from foundry_ray import compression, tasks
from foundry_ray.compression.runtime import is_changed
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, ResourcesUnavailable
from foundry_ray.protocols import ArtifactStore, Reporter
from foundry_ray.search import memory
from foundry_ray.search.trial.context import WAITING, TrialContext
from foundry_ray.search.trial.place import Arrays, Place
from foundry_ray.search.trial.students import Student
from foundry_ray.training.checkpoint.bytes import from_bytes, to_bytes
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.loop import FitJob, Loop
from foundry_ray.training.shape import Shape, halved
from foundry_ray.training.state import LoopState
from foundry_ray.types import Scalar

if TYPE_CHECKING:
    from torch import nn


NO_ROOM = "narrow the space to smaller students, or give a trial more with `search.trial.cpus` or `search.trial.gpus`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Which training.

    Attributes:
        make: The student before its first step; called again where memory ran out.
        shape: Rows per pass.
        prefix: Where its checkpoints go.
        checkpoint: The one to go on from.
    """

    number: int
    params: Mapping[str, Scalar]
    seed: int
    make: Callable[[], Student]
    shape: Shape
    prefix: str
    checkpoint: str | None

    @property
    def name(self) -> str:
        """For messages."""
        return f"trial {self.number}"


class Training:
    """One trial's loop, restored where there is a checkpoint.

    Args:
        student: Fresh from `work.make`; it is trained in place.

    Raises:
        ArtifactCorrupt: The checkpoint is not what was saved.
    """

    def __init__(self, work: Work, student: Student, place: Place) -> None:
        self._work = work
        self._place = place
        self._shape = work.shape
        self._checkpoint = work.checkpoint
        self._loop: Loop | None = self._begun(student)

    @property
    def loop(self) -> Loop:
        """Where it stands."""
        assert self._loop is not None, "it is there but while another is made"
        return self._loop

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.loop.epoch

    def rows(self, *, after: int) -> list[Mapping[str, float]]:
        """Its metrics in the epochs after this one, each with its epoch."""
        return [{"epoch": float(epoch), **metrics} for epoch, metrics in enumerate(self.loop.curve, 1) if epoch > after]

    def to(self, epoch: int) -> Iterator[None]:
        """Train to the end of an epoch. Yields now and then, and whenever one is done.

        Raises:
            Diverged: A loss is not finite.
            ResourcesUnavailable: Memory ran out with one row in a pass.
        """
        while self.epoch < epoch:
            self.run_epoch()
            yield

    def run_epoch(self) -> None:
        """Train an epoch; where memory runs out, go back to the last checkpoint instead, to smaller passes.

        Raises:
            Diverged: A loss is not finite.
            ResourcesUnavailable: Memory ran out with one row in a pass.
        """
        said = self._tried()
        if said is not None:
            self._loop = None
            self._come_back(said)

    def save(self) -> str:
        """Store the whole state in one object, which is named by its hash, and return its key."""
        with self._place.phases.within("save"):
            self._checkpoint = put_state(self._place.store, self._work.prefix, self.loop.state())
        return self._checkpoint

    def _tried(self) -> str | None:
        """Train an epoch. Where memory ran out: what it said, without the frames, which hold the weights."""
        try:
            with self._place.phases.within("training"):
                self.loop.run_epoch()
        except (MemoryError, RuntimeError) as error:
            if not memory.is_out_of_memory(error):
                raise
            return " ".join(str(error).split())[:300] or type(error).__name__
        return None

    def _come_back(self, said: str) -> None:
        memory.give_back()
        rows, smaller = self._shape.micro_batch_size, halved(self._shape)
        if smaller is None:
            message = f"{self._work.name} was out of memory with 1 row in a pass, wanted room for one: {said}"
            raise ResourcesUnavailable(
                message, hint="narrow the space to smaller students, or give a trial more with `search.trial.cpus` or `.gpus`."
            )
        self._place.reporter.warn(
            f"{self._work.name} was out of memory with {rows} rows in a pass; it goes on from epoch {epoch_of(self._checkpoint)} "
            f"with {smaller.micro_batch_size}, the same batch of {smaller.batch_size}."
        )
        self._shape = smaller
        self._loop = self._begun(self._work.make())

    def _begun(self, student: Student) -> Loop:
        with self._place.phases.within("engine"):
            loop = self._made(student)
        with self._place.phases.within("restore"):
            self._restore(loop)
        return loop

    def _made(self, student: Student) -> Loop:
        place, shipped = self._place, None
        if is_changed(student.recipe):
            shipped = self._as_shipped(student)
        engine = TorchEngine(student.model, student.train, device=place.device, accumulation=self._shape.accumulation)
        job = fit_job(place.context, place.arrays, student, self._shape, eval_transform=shipped)
        return Loop(job, engine, reporter=place.reporter, clock=place.clock, between_steps=self._pause)

    def _as_shipped(self, student: Student) -> Callable[[nn.Module], nn.Module]:
        context = self._place.context

        def made(model: nn.Module) -> nn.Module:
            with self._place.phases.within("calibrate"):
                return compression.simulate(model, context.calibration, student.recipe, given=context.given(student.seed))

        return made

    def _pause(self) -> None:
        with self._place.phases.within(WAITING):
            self._place.between_steps()

    def _restore(self, loop: Loop) -> None:
        """Continue from the checkpoint, where there is one."""
        data = get_state(self._place.store, self._checkpoint, self._place.reporter)
        if data is None:
            self._checkpoint = None
        else:
            loop.restored(from_bytes(data, loop.state()))


def fit_job(
    context: TrialContext, arrays: Arrays, student: Student, shape: Shape, *, eval_transform: Callable[[nn.Module], nn.Module] | None
) -> FitJob:
    """What training a student is."""
    return FitJob(
        train=student.train,
        task=tasks.get(context.task),
        split_train=arrays.train,
        split_val=arrays.val,
        augment=context.augment,
        seed=context.seed,
        distil=arrays.distil(student.recipe),
        eval_transform=eval_transform,
        micro_batch_size=shape.micro_batch_size,
        aids=compression.aids(student.recipe, context.given(student.seed)),
    )


def put_state(store: ArtifactStore, prefix: str, state: LoopState) -> str:
    """Store the whole state of a loop under a key that says its epoch and its hash. Raises StoreError."""
    data = to_bytes(state)
    key = f"{prefix}/{cast(int, state.document['epoch']):06d}-{_hash(data)}.safetensors"
    store.put(key, data)
    return key


def get_state(store: ArtifactStore, key: str | None, reporter: Reporter) -> bytes | None:
    """What `put_state` stored; None where there is no key, or nothing under it.

    One that retention let go is made again: training is deterministic, so going through the same epochs once more costs time alone.

    Raises:
        ArtifactCorrupt: It is not what was stored.
    """
    if key is None:
        return None
    try:
        data = store.get(key)
    except ArtifactNotFound:
        reporter.warn(f"{key} was collected as garbage; its trial trains again from the first epoch.")
        return None
    actual, expected = _hash(data), key.rpartition("-")[2].partition(".")[0]
    if actual != expected:
        stage = "search" if key.startswith("studies/") else "student"  # what is fresh deletes its own checkpoints only
        message = f"{key} has the hash {actual}, wanted {expected}."
        raise ArtifactCorrupt(message, hint=f"`--fresh {stage}` trains again.", key=key, expected=expected, actual=actual)
    return data


def epoch_of(checkpoint: str | None) -> int:
    """How many epochs a checkpoint holds, by its name; 0 without one."""
    return int(checkpoint.rpartition("/")[2].partition("-")[0]) if checkpoint else 0


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
