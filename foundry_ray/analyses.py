"""An analysis of a stored model: the model and its training rows are fetched, and limits and latency are what search and evaluation mean by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foundry_ray.compression.analysis import Analysis, analyze
from foundry_ray.context import Context
from foundry_ray.errors import ArtifactNotFound, ConfigError
from foundry_ray.protocols import Given
from foundry_ray.search import constraints
from foundry_ray.search.finished import output_of
from foundry_ray.types import DatasetRef, ModelArtifact, RunRecord

_LATENCY_BUDGET_S = 1.0
_STEPS = 5


def analyze_stored(
    reference: str,
    *,
    context: Context,
    limits: Sequence[str] = (),
    ratios: Sequence[float],
    num_rows: int,
    profile: bool = True,
    of_student: bool = False,
) -> Analysis:
    """Take a registered version apart, or the teacher of a run.

    Args:
        reference: `name@alias`, `name:version`, or a run.
        context: The surroundings.
        limits: As `num_macs <= 5e6`.
        ratios: As `analyze`.
        num_rows: As `analyze`.
        profile: As `analyze`.
        of_student: Of a run, the student and not the teacher.

    Raises:
        ArtifactNotFound: There is no such model, or the run that made it is gone, and with it the data set.
        ConfigError: A limit is on accuracy, which nothing but training tells.
    """
    from foundry_ray import data, models

    wanted = constraints.parse_all(limits, where="--limit")
    for limit in wanted:
        if limit.metric == "accuracy":
            raise ConfigError(f"--limit is {str(limit)!r}, wanted one on a cost.", hint="sensitivities tell what pruning costs before training.")
    record, artifact = _found(reference, context, of_student=of_student)
    dataset = output_of(record, "data", DatasetRef)
    split = data.load_split(dataset, "train", store=context.store)
    given = Given(schema=dataset.schema, task=dataset.task, inputs_N=split.inputs_N, labels_N=split.labels_N)
    model = models.load_model(context.store, artifact)
    done = iter(range(1, _STEPS + 1))
    return analyze(
        model,
        given,
        limits=wanted,
        ratios=ratios,
        num_rows=num_rows,
        profile=profile,
        latency=lambda onnx: _latency(onnx, context),
        progress=lambda note: context.reporter.progress(next(done), _STEPS, note),
    )


def _found(reference: str, context: Context, *, of_student: bool) -> tuple[RunRecord, ModelArtifact]:
    """The run that made a model, and the model."""
    from foundry_ray import registry
    from foundry_ray.runlog import find_run

    if "@" not in reference and ":" not in reference:
        record = find_run(context.store, reference)
        return record, output_of(record, "student" if of_student else "teacher", ModelArtifact)
    entry = registry.resolve(context.store, reference)
    run_id = entry.run_id or (entry.lineage.run_id if entry.lineage else "")
    if not run_id:
        message = f"{reference} does not say which run made it, so its data set is not known."
        raise ArtifactNotFound(message, hint="`foundry analyze RUN` takes a run.", key=reference)
    return find_run(context.store, run_id), entry.model


def _latency(onnx: bytes, context: Context) -> Mapping[str, float]:
    from foundry_ray.evaluation.latency import RuntimeLatencyMeter

    meter = RuntimeLatencyMeter(store=context.store, threads=1, budget_s=_LATENCY_BUDGET_S, clock=context.clock)
    measured = meter.measure(onnx, batch_size=1)
    return {"latency_p50_ms": measured.p50_ms, "latency_p95_ms": measured.p95_ms}
