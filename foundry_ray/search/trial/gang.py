"""A trial that several workers train: each way from rung to rung is a group of its own, which leaves a state as a single worker would.

So such a trial is continued, taken over by others and finished like any other. What a group does stands in `rank`; who starts it is passed in.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Protocol

from foundry_ray.artifacts.manifests import get_json, put_json
from foundry_ray.compression.runtime import is_changed
from foundry_ray.errors import FoundryError, ResourcesUnavailable, WorkerGroupFailed
from foundry_ray.protocols import ArtifactStore
from foundry_ray.search.trial.place import Place
from foundry_ray.search.trial.students import Student
from foundry_ray.search.trial.training import NO_ROOM, Training, Work, epoch_of
from foundry_ray.training.failures import FailureKind, RankFailure, culprit_of, last_line
from foundry_ray.training.shape import Shape, halved
from foundry_ray.types import FORMAT_VERSION, Scalar, canonical_sha256, from_json, to_json

_LOOK_EVERY_S = 0.5
_WARNING = "warning-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What all workers of a group know: which trial, from which state, to which epoch.

    Attributes:
        attempt: As no other group's.
        prefix: Where the trial's states go, and what the group tells.
    """

    params: Mapping[str, Scalar]
    seed: int
    shape: Shape
    checkpoint: str | None
    to_epoch: int
    attempt: str
    prefix: str

    @property
    def told(self) -> str:
        """Where the group says what it has done."""
        return f"{self.prefix}/told-{self.attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An epoch is done; with the last one comes the key of the state."""

    row: Mapping[str, float]
    checkpoint: str | None = None
    format_version: int = FORMAT_VERSION


class Gang(Protocol):
    """Whoever can start a group of workers. It is pickled, once for all processes of a study."""

    @property
    def num_workers(self) -> int:
        """In a group."""

    def train(self, stretch: Stretch) -> tuple[RankFailure, ...]:
        """Run a group to its end and say how its ranks failed; empty if they did not. Blocks."""


def tell(store: ArtifactStore, stretch: Stretch, told: Told) -> None:
    """Leave word of an epoch for whoever started the group. Raises StoreError."""
    put_json(store, f"{stretch.told}/{int(told.row['epoch']):06d}.json", to_json(told))


def tell_warning(store: ArtifactStore, stretch: Stretch, message: str) -> None:
    """Leave a warning for whoever started the group; what all ranks say is said once. Raises StoreError."""
    put_json(store, f"{stretch.told}/{_WARNING}{canonical_sha256(message)[:16]}.json", message)


class GangTraining:
    """One trial's training by groups; stands where `Training` does.

    Args:
        student: As it is before its first step.
    """

    def __init__(self, work: Work, student: Student, place: Place, gang: Gang) -> None:
        self.epoch = epoch_of(work.checkpoint)
        self._work = work
        self._is_changed = is_changed(student.recipe)
        self._place = place
        self._gang = gang
        self._shape = work.shape
        self._checkpoint = work.checkpoint
        self._rows: dict[int, Mapping[str, float]] = {}
        self._waits = False

    def rows(self, *, after: int) -> list[Mapping[str, float]]:
        """Its metrics in the epochs after this one, as far as they were trained here. What storage costs shows at the last one before a rung."""
        return [self._rows[epoch] for epoch in sorted(self._rows) if epoch > after]

    def to(self, epoch: int) -> Iterator[None]:
        """Train to the end of an epoch. Yields now and then, and whenever one is done.

        Raises:
            Diverged: A loss is not finite.
            ResourcesUnavailable: Memory ran out with one row in a pass.
            WorkerGroupFailed: A worker is gone; the last state is intact.
        """
        while epoch_of(self._checkpoint) < epoch:
            work = self._work
            stretch = Stretch(
                params=work.params,
                seed=work.seed,
                shape=self._shape,
                checkpoint=self._checkpoint,
                to_epoch=epoch,
                attempt=uuid.uuid4().hex[:12],
                prefix=work.prefix,
            )
            failed = yield from self._followed(stretch)
            if failed:
                self._again(failed)
            elif self._is_changed:
                self._judge_as_shipped()

    def save(self) -> str:
        """The key of the state, which the group has stored."""
        assert self._checkpoint is not None, "a group that got to its end has left one"
        return self._checkpoint

    def _followed(self, stretch: Stretch) -> Generator[None, None, tuple[RankFailure, ...]]:
        """Run a group in a thread, and hear what it tells meanwhile."""
        outcome: Future[tuple[RankFailure, ...]] = Future()

        def run() -> None:
            try:
                outcome.set_result(self._gang.train(stretch))
            except BaseException as error:
                outcome.set_exception(error)

        threading.Thread(target=run, name=f"gang-{stretch.attempt}", daemon=True).start()
        while not outcome.done():
            with self._place.phases.within("training"):
                wait([outcome], timeout=_LOOK_EVERY_S)
            self._hear(stretch)
            yield
        self._hear(stretch)
        yield
        return outcome.result()

    def _hear(self, stretch: Stretch) -> None:
        store = self._place.store
        for info in list(store.list(f"{stretch.told}/")):
            document = get_json(store, info.key)
            if info.key.startswith(f"{stretch.told}/{_WARNING}"):
                self._place.reporter.warn(f"{self._work.name}: {document}")
            else:
                self._heard(from_json(Told, document, what=info.key))
            store.delete(info.key)

    def _heard(self, told: Told) -> None:
        epoch = int(told.row["epoch"])
        self._rows[epoch] = told.row
        self.epoch = max(self.epoch, epoch)
        self._checkpoint = told.checkpoint or self._checkpoint

    def _judge_as_shipped(self) -> None:
        """The last epoch again, as it would be stored: a group has the weights in pieces, and judges them in fp32."""
        work = replace(self._work, checkpoint=self._checkpoint, shape=replace(self._shape, num_workers=1))
        training = Training(work, self._work.make(), self._place)
        training.loop.curve[-1].update(training.loop.judge())
        [self._rows[self.epoch]] = training.rows(after=self.epoch - 1)
        before, self._checkpoint = self.save(), training.save()
        if before != self._checkpoint:  # storage may cost nothing
            self._place.store.delete(before)

    def _again(self, failed: tuple[RankFailure, ...]) -> None:
        """Smaller passes, where it was memory; once more, where there was no room; the end of this process's part in all other cases."""
        refused = next((one.error for one in failed if one.error is not None and not one.error.retryable), None)
        if refused is not None:
            raise refused
        full = next((one for one in failed if one.is_out_of_memory), None)
        if full is None and all(_has_no_room(one) for one in failed):
            self._say_waiting(failed[0])
            return
        if full is None:
            raise _lost(self._work.name, failed)
        smaller = halved(self._shape)
        if smaller is None:
            message = f"{self._work.name} was out of memory with 1 row in a pass, wanted room for one: {last_line(full.text)}"
            raise ResourcesUnavailable(message, hint=NO_ROOM)
        self._place.reporter.warn(f"{self._work.name} was out of memory with {self._shape}; it goes on with {smaller}.")
        self._shape = smaller

    def _say_waiting(self, failed: RankFailure) -> None:
        """Others have the room now, and that is no failure of this trial's; the driver's patience with silence ends it."""
        if not self._waits:
            self._place.reporter.warn(f"{self._work.name} waits for room for its {self._gang.num_workers} workers: {last_line(failed.text)}")
        self._waits = True


def _has_no_room(failed: RankFailure) -> bool:
    return failed.kind is FailureKind.NOT_STARTED and "Timeout" in failed.text


def _lost(name: str, failed: tuple[RankFailure, ...]) -> FoundryError:
    culprit = culprit_of(failed)
    message = f"{name} lost a worker: rank {culprit.rank} {culprit.kind}: {last_line(culprit.text)}"
    return WorkerGroupFailed(message, hint="it is tried again from its last rung.", failures={one.rank: one.text for one in failed})
