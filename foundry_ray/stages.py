"""Carries out one stage after another for a run: reuse, lease, commit, record. Knows what no stage does.

Decides: whether a stage is reused, waited for or done; what the record says. Leaves to others: what a stage does (`pipeline`).

What a run is about to use, its record names first: from then on a collection of garbage keeps it. One that was past its last look by then
(`artifacts.plans`) is let finish, and what is left counts.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from foundry_ray.clock import utc
from foundry_ray.context import Context
from foundry_ray.errors import ArtifactNotFound, StoreError
from foundry_ray.runlog import (
    Lease,
    StageResult,
    commit_result,
    forget_result,
    hold,
    outlast_collections,
    read_result,
    record_key,
    result_key,
    save_run,
)
from foundry_ray.types import RunRecord, RunStatus, StageRecord, StageStatus, from_json, to_json

T = TypeVar("T")
_RECORDED = ("foundry-ray", "ray", "deepspeed", "torch", "optuna", "onnx", "onnxruntime", "numpy", "torch-pruning")
STAGES = ("data", "teacher", "search", "student", "evaluation", "registry", "serving")
PROGRESS_PREFIXES = ("checkpoints", "studies")
_LATER = "not asked for yet; `foundry resume` does it"


def library_versions() -> dict[str, str]:
    """Versions that a record keeps. They are not part of any key; a difference is a warning."""
    versions = {}
    for name in _RECORDED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


class AsFarAsAsked(Exception):
    """The stage that was named as the last one is done: no failure, but the story ends there."""


class StageRunner:
    """Runs the stages of one run, and keeps its record in the store true after every change.

    Args:
        fresh: Stages to do again although their result exists.
        until: The last stage to do; all of them where None.
    """

    def __init__(self, context: Context, record: RunRecord, *, fresh: Collection[str] = (), until: str | None = None) -> None:
        self._context = context
        self._fresh = set(fresh)
        self._until = until
        self.record = record

    def do(self, name: str, key: str, work: Callable[[], T], kind: type[T], *, progress_key: str | None = None) -> T:
        """The stage's output: a committed one under this key, another run's once it is ready, or `work`'s.

        Args:
            name: The stage.
            key: Its stage key.
            work: Does the stage.
            kind: The type of its output.
            progress_key: Under what partial work is kept, where that is not `key`.

        Raises:
            AsFarAsAsked: It is done, and was the last one to do.
        """
        output = self._output(name, key, work, kind, progress_key)
        if name == self._until:
            raise AsFarAsAsked(name)
        return output

    def _output(self, name: str, key: str, work: Callable[[], T], kind: type[T], progress_key: str | None) -> T:
        store = self._context.store
        is_fresh = name in self._fresh
        self._lay_claim(name, key, progress_key or "")
        result = None if is_fresh else read_result(store, name, key)  # one that cannot be read is what `--fresh` mends
        if result is not None:
            return self._reuse(name, key, result, kind, "equal inputs were done by run " + result.run_id)
        limits = self._context.limits
        with hold(
            store,
            progress_key or key,
            run_id=self.record.run_id,
            ttl_s=limits.lease_ttl_s,
            wait_s=limits.lease_wait_s,
            clock=self._context.clock,
            reporter=self._context.reporter,
            is_done=lambda: not is_fresh and read_result(store, name, key) is not None,
        ) as lease:
            if is_fresh:
                self._forget(name, key, progress_key or key)  # inside the lease: another run may be in the middle of what is deleted
            if lease is not None and read_result(store, name, key) is None:
                return self._work(name, key, work, lease)
        result = read_result(store, name, key)
        assert result is not None
        return self._reuse(name, key, result, kind, f"run {result.run_id} did it meanwhile")

    def take(self, name: str, origin: RunRecord, kind: type[T]) -> T:
        """The output that another run recorded for a stage, as it is: neither looked for under a key of today, nor done again.

        Raises:
            ArtifactNotFound: That run has not done the stage.
        """
        stage = origin.stage(name)
        if stage is None or stage.outputs is None:
            hint = f"`foundry resume {origin.run_id}` goes on with it."
            raise ArtifactNotFound(f"Run {origin.run_id} has not done its stage {name}.", hint=hint, key=origin.run_id)
        reason = f"taken from run {origin.run_id}"
        self._lay_claim(name, stage.key, stage.progress_key)
        self._note(replace(stage, status=StageStatus.REUSED, attempts=0, reason=reason, error=None))
        self._context.reporter.reused(name, reason)
        return from_json(kind, stage.outputs, what=f"stage {name} of {origin.run_id}")

    def reconcile(self, name: str, work: Callable[[], T]) -> T:
        """Do a stage whose result is the state of the world and not an object: always."""
        return self._work(name, "", work, None)

    def _lay_claim(self, name: str, key: str, progress_key: str) -> None:
        """Name in the record what the stage may use, and see that nobody deletes it."""
        before = self.record.stage(name)
        if before is None or before.key != key:
            before = StageRecord(name=name, key=key, attempts=before.attempts if before else 0)
        folders = tuple(f"{prefix}/{progress_key or key}/" for prefix in PROGRESS_PREFIXES)
        needs = (result_key(name, key), record_key(self.record.run_id), "targets/", *folders)
        is_settled = False
        while not is_settled:
            self._note(replace(before, progress_key=progress_key))  # again after a wait: the record may have been among what was deleted
            is_settled = not outlast_collections(
                self._context.store,
                needs,
                what=f"stage {name}",
                wait_s=self._context.limits.lease_wait_s,
                clock=self._context.clock,
                reporter=self._context.reporter,
            )

    def _forget(self, name: str, key: str, progress_key: str) -> None:
        store = self._context.store
        forget_result(store, name, key)
        for prefix in PROGRESS_PREFIXES:
            for info in list(store.list(f"{prefix}/{progress_key}/")):
                store.delete(info.key)
        self._fresh.discard(name)

    def _reuse(self, name: str, key: str, result: StageResult, kind: type[T], reason: str) -> T:
        now = library_versions()
        changed = [f"{library} {version} -> {now[library]}" for library, version in result.versions.items() if now.get(library, version) != version]
        if changed:
            self._context.reporter.warn(f"stage {name} is reused although libraries changed: {', '.join(changed)}; `--fresh {name}` does it again.")
        before = self.record.stage(name) or StageRecord(name=name, key=key)
        self._note(
            replace(before, status=StageStatus.REUSED, outputs=result.outputs, attempts=0, duration_s=result.duration_s, reason=reason, error=None)
        )
        self._context.reporter.reused(name, reason)
        return from_json(kind, result.outputs, what=f"stages/{name}/{key}.json")

    def _work(self, name: str, key: str, work: Callable[[], T], lease: Lease | None) -> T:
        clock = self._context.clock
        before = self.record.stage(name) or StageRecord(name=name, key=key)
        stage = StageRecord(name=name, key=key, status=StageStatus.RUNNING, attempts=before.attempts + 1, progress_key=before.progress_key)
        self._note(stage)
        began_s = clock.monotonic_s()
        try:
            with self._context.reporter.stage(name):
                outputs = work()
            if lease is not None:
                lease.check()
        except BaseException as error:
            status = StageStatus.FAILED if isinstance(error, Exception) else StageStatus.INTERRUPTED
            with suppress(StoreError):  # a silent store must not hide what ended the stage
                self._note(replace(stage, status=status, duration_s=clock.monotonic_s() - began_s, error=f"{type(error).__name__}: {error}"))
            raise
        done = replace(stage, status=StageStatus.DONE, outputs=to_json(outputs), duration_s=clock.monotonic_s() - began_s)
        if lease is not None:
            result = StageResult(
                outputs=done.outputs, run_id=self.record.run_id, created_at=self._time(), duration_s=done.duration_s, versions=library_versions()
            )
            commit_result(self._context.store, name, key, result)
        self._note(done)
        return outputs

    def _note(self, stage: StageRecord) -> None:
        others = tuple(other for other in self.record.stages if other.name != stage.name)
        self.record = replace(self.record, stages=(*others, stage), warnings=self._context.reporter.warnings)
        save_run(self._context.store, self.record)

    def finish(self, status: RunStatus) -> RunRecord:
        """Close the record. Where it was to end early, the stages that it has not come to are pending."""
        reached = tuple(stage for stage in self.record.stages if stage.key or stage.status is not StageStatus.PENDING)
        later = [name for name in STAGES if self._until is not None and name not in {stage.name for stage in reached}]
        pending = (StageRecord(name=name, key="", reason=_LATER) for name in later)
        warnings = self._context.reporter.warnings
        self.record = replace(self.record, status=status, stages=(*reached, *pending), ended_at=self._time(), warnings=warnings)
        save_run(self._context.store, self.record)
        return self.record

    def fail(self, error: BaseException) -> None:
        """Close the record after an error, where the store takes it; an interrupt leaves a run that resumes."""
        with suppress(StoreError):
            self.finish(RunStatus.FAILED if isinstance(error, Exception) else RunStatus.INTERRUPTED)

    def _time(self) -> str:
        return utc(self._context.clock.now_s())
