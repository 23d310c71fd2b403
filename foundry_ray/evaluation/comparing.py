"""The evaluation stage: teacher against student, on the split that nothing was chosen on.

Both are judged as they are served: the bytes of their ONNX files, in the runtime that serves them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_ray.config import GatesConfig, LatencyConfig, Settings
from foundry_ray.evaluation import metrics
from foundry_ray.evaluation.calibration import calibration_error, largest_class_drop
from foundry_ray.evaluation.gates import CALIBRATION, CLASS_DROP, judge
from foundry_ray.evaluation.latency import Served, can_run, measure_together, with_threads
from foundry_ray.evaluation.quiet import QuietGate
from foundry_ray.evaluation.robustness import Subject, check_gates, robustness
from foundry_ray.inference import Runtime, load_served, open_choice, run_batched, shipped_runtime
from foundry_ray.models import load_model
from foundry_ray.protocols import ArtifactStore, Clock, Reporter, RuntimeChoice, Task
from foundry_ray.schemas import classes_only
from foundry_ray.types import DatasetRef, EvaluationReport, LatencyResult, MetricValue, ModelArtifact, ModelReport

if TYPE_CHECKING:
    import numpy as np

    from foundry_ray.data import Split

_STEPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One model: its file, what runs it, its logits on test, and the per-sample scores of the primary metric."""

    model: ModelArtifact
    onnx: bytes
    runtime: Runtime
    logits_NC: np.ndarray
    scores_N: np.ndarray


def evaluate(
    teacher: ModelArtifact,
    student: ModelArtifact,
    *,
    dataset: DatasetRef,
    gates: GatesConfig,
    latency: LatencyConfig,
    task: str,
    store: ArtifactStore,
    settings: Settings,
    clock: Clock,
    reporter: Reporter,
) -> EvaluationReport:
    """Measure both models and judge the student by the gates.

    Args:
        teacher: The reference, served as its fp32 file.
        student: The frozen candidate; its hash is what the test split opens for.
        dataset: Whose test split is read, and the reading logged.
        gates: Thresholds; what they do not ask for is not measured.
        latency: Batch size, threads and time of the side-by-side measurement.
        task: A registered task.

    Raises:
        ConfigError: The rows of the data set have no class, this machine cannot run a model's runtime, or cannot measure what a gate asks for.
        ArtifactNotFound: A model or the data set is not in the store.
        ArtifactCorrupt: Its bytes are not the published ones.
    """
    from foundry_ray import data, tasks

    classes_only(dataset.schema, what="the evaluation")
    check_gates(gates, dataset.schema)
    judged = tasks.get(task)
    files = load_served(store, teacher), load_served(store, student)
    runtimes = _runtime(store, teacher), _runtime(store, student)
    reporter.progress(0, _STEPS, "latency")
    times, notes = _side_by_side(files, runtimes, latency, settings, clock)
    reporter.progress(1, _STEPS, "test set")
    test = data.open_test(dataset, store=store, frozen_sha256=student.artifact.sha256, clock=clock)
    sides = [_answered(*side, judged, test) for side in zip((teacher, student), files, runtimes, strict=True)]
    reporter.progress(3, _STEPS, "intervals")
    agreement = metrics.agreement(*(side.logits_NC for side in sides))
    found, more = _measured(gates, sides, judged, test, dataset, store)
    reports = [_report(*one) for one in zip(sides, found, times, strict=True)]
    results = judge(gates, reports[0], reports[1], agreement, metric=judged.primary_metric)
    reporter.progress(_STEPS, _STEPS, "judged")
    return EvaluationReport(
        model=student.artifact.key,
        dataset_fingerprint=dataset.fingerprint,
        split="test",
        teacher=reports[0],
        student=reports[1],
        agreement=agreement,
        gates=results,
        passed=all(result.passed for result in results),
        num_test_openings=data.num_test_openings(dataset, store),
        notes=(*_noise(times, reporter), *notes, *more),
    )


def _measured(
    gates: GatesConfig, sides: Sequence[_Side], task: Task, test: Split, dataset: DatasetRef, store: ArtifactStore
) -> tuple[list[dict[str, MetricValue]], tuple[str, ...]]:
    """The metrics of both models, those among them that only gates ask for, and what these have to say besides."""
    found = [dict(metrics.all_metrics(task, side.logits_NC, test.labels_N)) for side in sides]
    theirs, ours = (side.scores_N for side in sides)
    found[1][f"{task.primary_metric}_drop"] = metrics.paired_drop(theirs, ours)
    notes: tuple[str, ...] = ()
    if gates.class_drop_points is not None:
        worst, found[1][CLASS_DROP] = largest_class_drop(theirs, ours, test.labels_N)
        notes = (f"class {dataset.schema.classes[worst]} loses most: {100 * found[1][CLASS_DROP].value:.2f} points of {task.primary_metric}",)
    if gates.calibration_error is not None or gates.calibration_increase is not None:
        for mine, side in zip(found, sides, strict=True):
            mine[CALIBRATION] = calibration_error(side.logits_NC, side.scores_N)
    subjects = [Subject(runtime=side.runtime, load=functools.partial(load_model, store, side.model)) for side in sides]
    for mine, more in zip(found, robustness(gates, subjects, task, test.inputs_N, test.labels_N), strict=True):
        mine.update(more)
    return found, notes


def _runtime(store: ArtifactStore, model: ModelArtifact) -> RuntimeChoice:
    from foundry_ray.artifacts import manifests

    return shipped_runtime(manifests.load_manifest(store, model.artifact.key).meta)


def _side_by_side(
    files: tuple[bytes, bytes], runtimes: tuple[RuntimeChoice, RuntimeChoice], latency: LatencyConfig, settings: Settings, clock: Clock
) -> tuple[tuple[LatencyResult, LatencyResult], tuple[str, ...]]:
    """Teacher and student, measured together; and what was found of the teacher besides.

    The student runs in the runtime that it ships with. The teacher runs in its own and in the student's, and the faster one counts: what the student
    gains is then gained by compression, and nobody could have had it by serving the teacher otherwise.
    """
    theirs, ours = (with_threads(choice, latency.threads) for choice in runtimes)
    sides = [Served(onnx=files[0], runtime=choice) for choice in dict.fromkeys((theirs, ours)) if choice == theirs or can_run(files[0], choice)]
    files_of_all = [*sides, Served(onnx=files[1], runtime=ours)]
    gate = QuietGate(home=settings.home)
    *teachers, student = measure_together(files_of_all, batch_size=latency.batch_size, budget_s=latency.budget_s, clock=clock, gate=gate)
    best, *others = sorted(teachers, key=lambda result: result.p50_ms)
    notes = (f"the teacher takes {other.p50_ms:.3f} ms in {other.runtime} with {other.threads} thread(s)" for other in others)
    return (best, student), tuple(notes)


def _answered(model: ModelArtifact, onnx: bytes, choice: RuntimeChoice, task: Task, test: Split) -> _Side:
    runtime = open_choice(onnx, choice)
    logits_NC = run_batched(runtime, test.inputs_N)
    return _Side(model=model, onnx=onnx, runtime=runtime, logits_NC=logits_NC, scores_N=task.correct(logits_NC, test.labels_N))


def _report(side: _Side, found: Mapping[str, MetricValue], latency: LatencyResult) -> ModelReport:
    return ModelReport(
        model_sha256=side.model.artifact.sha256,
        num_params=side.model.num_params,
        num_macs=side.model.num_macs,
        size_bytes=len(side.onnx),
        metrics=found,
        latency=(latency,),
    )


def _noise(times: tuple[LatencyResult, LatencyResult], reporter: Reporter) -> tuple[str, ...]:
    notes = []
    for side, time in zip(("teacher", "student"), times, strict=True):
        if time.is_noisy:
            low, high = time.ci_ms
            notes.append(f"the {side}'s latency is noisy: its median lies in {low:.3f}-{high:.3f} ms although it was measured twice")
            reporter.warn(notes[-1])
    return tuple(notes)
