"""Saves checkpoints while the training goes on: the loop waits for a copy in memory, and a thread does the rest.

Each rank has a writer, which uploads what this rank alone holds and its share of what all hold. Rank 0's thread then looks in the store until the
parts of all ranks are there, and commits. Nothing is gathered, and no thread takes part in a collective. What a store refuses is a warning, and
that checkpoint does not exist: training goes on, and the next one tries again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from foundry_ray.artifacts.keys import check_key
from foundry_ray.errors import StoreError, StoreUnavailable, TrainingError
from foundry_ray.protocols import ArtifactStore, Clock, Reporter
from foundry_ray.training.checkpoint.buffer import HostBuffer
from foundry_ray.training.checkpoint.commit import Draft, await_parts, commit, sweep
from foundry_ray.training.checkpoint.layout import MANIFEST, Checkpoint
from foundry_ray.training.checkpoint.plan import Plan, plan
from foundry_ray.training.checkpoint.upload import upload, why_failed
from foundry_ray.training.state import LoopState
from foundry_ray.types import Json, canonical_bytes, to_json

_POLL_S = 0.2
_NUM_PENDING = 3
_CLOSE_GRACE_S = 10.0


def _nothing(checkpoint: Checkpoint) -> None:
    """The default of `after_commit`."""


class _Save:
    """One checkpoint on its way. `uploaded` frees the buffer, `ended` is the end of its thread."""

    def __init__(self, number: int, draft: Draft) -> None:
        self.number = number
        self.draft = draft
        self.uploaded = threading.Event()
        self.ended = threading.Event()
        self.error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.uploaded.set()


class CheckpointWriter:
    """One rank's writer of an attempt. All ranks save the same steps in the same order.

    Args:
        store: Where to.
        stage_key: Names the work.
        attempt: Names this group of workers as no other before or after it; it becomes part of a key.
        rank: This one.
        world_size: How many there are.
        clock: Gives times, and waits.
        reporter: Warned of each checkpoint that was not saved.
        timeout_s: How long rank 0 waits for the parts of the others, `wait` for the commit, and `save` for the upload before
            (`teacher.checkpoint.commit_timeout_s`).
        after_commit: Called on rank 0's thread with each checkpoint that was committed; old ones are deleted here. Its StoreErrors are warnings.

    Attributes:
        blocked_s: For how long `save` has held the loop, all in all. Waiting for the upload before counts.
        newest: The newest checkpoint that this writer has committed (rank 0).
    """

    def __init__(
        self,
        store: ArtifactStore,
        stage_key: str,
        *,
        attempt: str,
        rank: int,
        world_size: int,
        clock: Clock,
        reporter: Reporter,
        timeout_s: float,
        after_commit: Callable[[Checkpoint], None] = _nothing,
    ) -> None:
        self.blocked_s = 0.0
        self.newest: Checkpoint | None = None
        self._store = store
        self._stage_key = stage_key
        self._attempt = check_key(attempt)
        self._rank = rank
        self._world_size = world_size
        self._clock = clock
        self._reporter = reporter
        self._timeout_s = timeout_s
        self._after_commit = after_commit
        self._buffer: HostBuffer | None = None
        self._saves: list[_Save] = []
        self._num_saves = 0
        self._num_committed = 0
        self._repeats: dict[int, int] = {}
        self._abandoned: list[str] = []
        self._closed_at_s: float | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is on its way: being uploaded or, on rank 0, waiting for the parts of the others."""
        return any(not save.ended.is_set() for save in self._saves)

    def save(self, step: int, epoch: int, state: LoopState, meta: Mapping[str, Json]) -> None:
        """Copy what this rank saves, and return; a thread stores it. All ranks call it, at the same step.

        Args:
            step: Optimizer steps done.
            epoch: Whole epochs done.
            state: The live state; it may change when this returns.
            meta: What else the manifest says; rank 0's counts.

        Raises:
            TrainingError: The document or `meta` holds a number that is not finite.
            Exception: A defect ended the thread of a checkpoint before.
        """
        started_s = self._clock.monotonic_s()
        try:
            self._raise_defects()
            save = self._next(step, epoch, state, meta)
            if self._is_free(save):
                self._start(save, plan(state, rank=self._rank, world_size=self._world_size))
        finally:
            self.blocked_s += self._clock.monotonic_s() - started_s

    def wait(self) -> None:
        """Return when the newest checkpoint is committed.

        Raises:
            StoreError: It never will be: what its upload or its commit failed with.
            StoreUnavailable: It was not within `timeout_s`.
        """
        deadline_s = self._clock.monotonic_s() + self._timeout_s
        self.wait_for_part()
        while self._saves and self._rank > 0 and self._store.stat(self._saves[-1].draft.folder + MANIFEST) is None:
            if self._clock.monotonic_s() >= deadline_s:
                raise self._late(self._saves[-1])
            self._clock.sleep(_POLL_S)

    def wait_for_part(self) -> None:
        """Return when this rank has done what it can for the newest checkpoint: its part is stored and, on rank 0, it is committed.

        Raises as `wait`.
        """
        save = self._saves[-1] if self._saves else None
        has_ended = save is None or save.ended.wait(self._timeout_s)
        if save is not None and save.error is not None:
            raise save.error
        if save is not None and not has_ended:
            raise self._late(save)

    def close(self) -> None:
        """End within seconds: what is on its way counts if all parts arrive within ten of them."""
        self._closed_at_s = self._clock.monotonic_s()
        for save in self._saves:
            save.ended.wait(_CLOSE_GRACE_S)
        if self._buffer is not None and not self.is_busy:
            self._buffer.release()
            self._buffer = None

    def _next(self, step: int, epoch: int, state: LoopState, meta: Mapping[str, Json]) -> _Save:
        number = self._repeats[step] = self._repeats.get(step, -1) + 1
        try:
            document, added = json.loads(canonical_bytes([to_json(state.document), to_json(meta)]))
        except ValueError as error:
            message = f"the state after step {step} holds a number that is not finite outside of its tensors: {error}."
            raise TrainingError(message, hint="a metric or a scalar of the engine is NaN; the last checkpoint is intact.") from error
        draft = Draft(
            stage_key=self._stage_key,
            step=step,
            epoch=epoch,
            world_size=self._world_size,
            attempt=self._attempt,
            number=number,
            document=document,
            meta=added,
        )
        self._num_saves += 1
        return _Save(self._num_saves, draft)

    def _is_free(self, save: _Save) -> bool:
        """Wait for the upload before, which reads the buffer; after too long a wait, this checkpoint is left out."""
        before = next((one for one in self._saves if not one.uploaded.is_set()), None)  # not the last: that one may have been left out
        self._saves = [*(one for one in self._saves if not one.ended.is_set()), save]
        if before is None or before.uploaded.wait(self._timeout_s):
            return True
        error = StoreUnavailable(
            f"the upload of step {before.draft.step} still runs after {self._timeout_s:g} s.",
            hint="save less often: `teacher.checkpoint.every_s`.",
            uri=self._store.uri,
        )
        save.fail(error)
        save.ended.set()
        self._warn(save, error)
        return False

    def _start(self, save: _Save, layout: Plan) -> None:
        try:
            buffer = self._buffer_of(layout)
        except OSError as error:
            failure = StoreUnavailable(f"there is no memory for its {layout.size_bytes} bytes: {error.strerror}.", hint="use more workers.", uri="")
            save.fail(failure)
            save.ended.set()
            self._warn(save, failure)
            return
        buffer.fill(layout.copies)
        name = f"checkpoint-{save.draft.step}-{self._rank}"
        threading.Thread(target=self._run, args=(save, layout, buffer), name=name, daemon=True).start()

    def _buffer_of(self, layout: Plan) -> HostBuffer:
        is_pinned = any(copy.tensor.is_cuda for copy in layout.copies)
        if self._buffer is not None and self._buffer.size_bytes != layout.size_bytes:
            self._buffer.release()
            self._buffer = None
        if self._buffer is None:
            self._buffer = HostBuffer(layout.size_bytes, is_pinned=is_pinned)
        return self._buffer

    def _run(self, save: _Save, layout: Plan, buffer: HostBuffer) -> None:
        """The thread."""
        try:
            if self._rank == 0:
                self._sweep()
                self._abandoned = []
            upload(self._store, save.draft.folder, self._rank, layout, buffer)
            save.uploaded.set()
            if self._rank == 0:
                self._commit(save)
        except StoreError as error:
            self._abandoned.append(save.draft.folder)
            save.fail(error)
            self._warn(save, error)
            if self._rank == 0:
                self._sweep()
        except Exception as error:  # the border of a thread: the next call of the loop raises it
            save.fail(error)
        finally:
            save.ended.set()

    def _commit(self, save: _Save) -> None:
        deadline_s = self._clock.monotonic_s() + self._timeout_s

        def may_wait() -> bool:
            closed_at_s = self._closed_at_s
            is_late = self._clock.monotonic_s() >= (deadline_s if closed_at_s is None else min(deadline_s, closed_at_s + _CLOSE_GRACE_S))
            return not is_late and save.number > self._num_committed and self._num_saves - save.number < _NUM_PENDING

        parts = await_parts(self._store, save.draft, may_wait, clock=self._clock)
        self.newest = commit(self._store, save.draft, parts, clock=self._clock)
        self._num_committed = max(self._num_committed, save.number)
        try:
            self._after_commit(self.newest)
        except StoreError as error:
            self._reporter.warn(f"after the checkpoint of step {save.draft.step}: {error}")

    def _sweep(self) -> None:
        """Delete what failed checkpoints left: of full disks, what frees them. The parts of other ranks are there by the next checkpoint."""
        for folder in self._abandoned:
            with suppress(StoreError):
                sweep(self._store, folder)

    def _warn(self, save: _Save, error: StoreError) -> None:
        last = f"the newest is that of step {self.newest.step}" if self.newest else "older ones stay as they are"
        self._reporter.warn(f"the checkpoint of step {save.draft.step} is not saved: {why_failed(error, self._store)} Training goes on; {last}.")

    def _late(self, save: _Save) -> StoreUnavailable:
        message = f"the checkpoint of step {save.draft.step} was not committed within {self._timeout_s:g} s."
        return StoreUnavailable(message, hint="`teacher.checkpoint.commit_timeout_s` sets the wait.", uri=self._store.uri)

    def _raise_defects(self) -> None:
        for save in self._saves:
            if save.error is not None and not isinstance(save.error, StoreError):
                raise save.error
