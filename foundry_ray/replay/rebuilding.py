"""Makes a version again, from nothing, in a store of its own, and says how it compares.

Decides: what is made, what is taken over, what is left behind. The user's store is read; the one thing written into it is that the test
split of this data set was opened again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from foundry_ray import data, keys, tasks
from foundry_ray.artifacts.manifests import fetch, load_manifest, publish
from foundry_ray.config import StoreConfig
from foundry_ray.context import Context
from foundry_ray.errors import FingerprintMismatch, StoreDenied
from foundry_ray.pipeline import Pipeline
from foundry_ray.protocols import ArtifactStore
from foundry_ray.replay.comparing import Making, Point, Verdict, compare, differences, judge
from foundry_ray.replay.original import SERVED, WEIGHTS, Original, file_sha256, find_original
from foundry_ray.runlog import new_run_id
from foundry_ray.stages import library_versions
from foundry_ray.types import FORMAT_VERSION, DatasetRef, EvaluationReport, ModelArtifact, Trial, TrialState

Part = Literal["student"]
_OWN_VERSION = "foundry_ray"  # stands among the libraries too


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How a version came out the second time.

    Attributes:
        version: `name:version`.
        run_id: The run that made it.
        made: The stages that were done again; `data` and `teacher` are missing where they were reused.
        warnings: What was different around it, each with both values, and what the stages warned of.
        num_test_openings: How often this data set's test split was opened, this time among them.
        folder: Where the second making lies; None where it was removed.
    """

    version: str
    run_id: str
    verdict: Verdict
    points: tuple[Point, ...]
    made: tuple[str, ...]
    warnings: tuple[str, ...]
    num_test_openings: int
    folder: str | None
    format_version: int = FORMAT_VERSION


def replay(reference: str, *, context: Context, only: Part | None = None, cluster: str | None = None, keep: bool = False) -> Replay:
    """Make a registered version again and compare.

    Args:
        reference: `name@alias` or `name:version`.
        context: Its store is the one that is read.
        only: `student` reuses the original's data set and teacher.
        cluster: Where to; None is where the version was made.
        keep: Leave the second making under FOUNDRY_HOME/replays.

    Raises:
        ArtifactNotFound: No such version, or one without a lineage.
        FingerprintMismatch: The source gives other data now.
        DataError: The source is absent.
    """
    original = find_original(context.store, reference)
    for sentence in _changes(original):
        context.reporter.warn(sentence)
    name = new_run_id(f"{original.entry.name}-{original.entry.version}", context.clock)
    folder = context.settings.home / "replays" / name
    with _scratch(context, folder, original, cluster=cluster, keep=keep) as scratch:
        making, dataset = _rebuild(original, scratch, store=context.store, only=only)
    for sentence in _other_hardware(original.making.report, making.report):
        context.reporter.warn(sentence)
    primary_metric = tasks.get(original.config.task).primary_metric
    points = compare(original.making, making, primary_metric=primary_metric, is_teacher_reused=only is not None)
    return Replay(
        version=original.name,
        run_id=original.lineage.run_id,
        verdict=judge(points),
        points=points,
        made=(*(() if only else ("data", "teacher")), "student", "evaluation"),
        warnings=context.reporter.warnings,
        num_test_openings=data.num_test_openings(dataset, context.store),
        folder=str(folder) if keep else None,
    )


def _changes(original: Original) -> tuple[str, ...]:
    """Other libraries, another commit, another plugin. A commit counts where one was recorded."""
    recorded = {name: value for name, value in original.lineage.code.items() if name != _OWN_VERSION}
    code = {name: value for name, value in keys.code(original.config).items() if name in recorded or name.startswith("plugin ")}
    return (*differences("library", original.lineage.versions, library_versions()), *differences("code:", recorded, code))


def _other_hardware(original: EvaluationReport, replayed: EvaluationReport) -> tuple[str, ...]:
    before, after = (_device(report) for report in (original, replayed))
    return differences("the measuring", before, after)


def _device(report: EvaluationReport) -> dict[str, str]:
    latency = report.student.latency
    return {"device": latency[0].device} if latency else {}


@contextmanager
def _scratch(context: Context, folder: Path, original: Original, *, cluster: str | None, keep: bool) -> Iterator[Context]:
    """Surroundings with a new, empty store, which is removed at the end."""
    surroundings = Context(
        settings=context.settings,
        clock=context.clock,
        reporter=context.reporter,
        store_config=StoreConfig(uri=(folder / "store").as_uri()),
        cluster=cluster or original.config.cluster,
        limits=original.config.limits,
    )
    try:
        with surroundings as scratch:
            yield scratch
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _rebuild(original: Original, scratch: Context, *, store: ArtifactStore, only: Part | None) -> tuple[Making, DatasetRef]:
    """The stages of `pipeline`, in order, without the search."""
    pipeline, stages, told = Pipeline(config=original.config, context=scratch), original.lineage.stages, scratch.reporter
    if only is None:
        dataset = _prepared(original, pipeline)
        with told.stage("teacher"):
            teacher = pipeline.train_teacher(dataset, stages["teacher"])
    else:
        dataset, teacher = _carried(original, store, scratch.store)
    with told.stage("student"):
        student = pipeline.make_student(dataset, teacher, _untrained(original.lineage.trial), stages["student"])
    _log_opening(dataset, student, store=store, context=scratch)
    with told.stage("evaluation"):
        report = pipeline.evaluate(dataset, teacher, student)
    return _making(scratch.store, dataset, teacher, student, report), dataset


def _prepared(original: Original, pipeline: Pipeline) -> DatasetRef:
    with pipeline.context.reporter.stage("data"):
        dataset = pipeline.prepare_data()
    expected = original.lineage.dataset_fingerprint
    if dataset.fingerprint != expected:
        message = f"{original.config.data.source} gives the data set {dataset.fingerprint[:12]} now, but {original.name} was made of {expected[:12]}."
        hint = "bring the old data back, or reuse what the store kept of it: `--only student`."
        raise FingerprintMismatch(message, hint=hint, expected=expected, actual=dataset.fingerprint)
    return dataset


def _untrained(trial: Trial) -> Trial:
    """The trial as it was proposed: what it had learnt is left out."""
    return replace(trial, state=TrialState.WAITING, rung=None, resource_used=0, values={}, curve=(), checkpoint=None, duration_s=0.0)


def _carried(original: Original, store: ArtifactStore, scratch: ArtifactStore) -> tuple[DatasetRef, ModelArtifact]:
    """Data set and teacher, copied over and verified on the way."""
    dataset, teacher = original.dataset(store), original.teacher(store)
    for key in (dataset.key, teacher.artifact.key):
        manifest = load_manifest(store, key)
        with tempfile.TemporaryDirectory(prefix="foundry-replay-") as folder:
            files = fetch(store, key, Path(folder))
            publish(scratch, kind=manifest.kind, files=dict(files), meta=manifest.meta, created_at=manifest.created_at)
    return dataset, teacher


def _log_opening(dataset: DatasetRef, student: ModelArtifact, *, store: ArtifactStore, context: Context) -> None:
    """Where the original's openings are counted; the copy of the data set counts its own."""
    try:
        data.log_opening(dataset, store=store, frozen_sha256=student.artifact.sha256, clock=context.clock)
    except StoreDenied as error:
        context.reporter.warn(f"this opening of the test split is not counted, because the store cannot be written: {error.message}")


def _making(store: ArtifactStore, dataset: DatasetRef, teacher: ModelArtifact, student: ModelArtifact, report: EvaluationReport) -> Making:
    return Making(
        data_fingerprint=dataset.fingerprint,
        teacher_weights=file_sha256(store, teacher.artifact.key, WEIGHTS),
        student_weights=file_sha256(store, student.artifact.key, WEIGHTS),
        served_file=file_sha256(store, student.artifact.key, SERVED),
        report=report,
    )
