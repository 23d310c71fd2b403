"""Finished values of every type, for tests of what reads them: a run whose stages are all done."""

from __future__ import annotations

from foundry_ray.types import (
    ArtifactRef,
    CompressionRecipe,
    Endpoint,
    EvaluationReport,
    GateResult,
    Json,
    LatencyResult,
    MetricValue,
    ModelArtifact,
    ModelReport,
    Objective,
    RunRecord,
    RunStatus,
    StageRecord,
    StageStatus,
    Step,
    StudyResult,
    Trial,
    TrialState,
    to_json,
)

OBJECTIVES = (Objective(metric="accuracy", mode="max"), Objective(metric="latency_p50_ms", mode="min"), Objective(metric="size_bytes", mode="min"))
RECIPE = CompressionRecipe(steps=(Step(kind="shrink", params={"width": 12, "depth": 1}), Step(kind="quantize", params={"bits": 8})))


def trial(number: int, accuracy: float, latency_ms: float, *, state: TrialState = TrialState.COMPLETE) -> Trial:
    """A trial with a three-point curve."""
    curve = tuple({"epoch": float(epoch), "accuracy": accuracy - 0.1 / epoch} for epoch in (1, 3, 9))
    values = {"accuracy": accuracy, "latency_p50_ms": latency_ms, "size_bytes": 40_000.0}
    return Trial(
        trial_id=f"t{number}",
        number=number,
        params={"lr": 0.01 * (number + 1)},
        recipe=RECIPE,
        state=state,
        resource_used=9,
        values=values,
        curve=curve,
    )


def study() -> StudyResult:
    """Three trials: the first chosen, two on the front, one stopped."""
    trials = (trial(0, 0.97, 0.10), trial(1, 0.98, 0.20), trial(2, 0.90, 0.30, state=TrialState.STOPPED))
    return StudyResult(
        study_name="mnist",
        study_key="k" * 32,
        trials=trials,
        objectives=OBJECTIVES,
        pareto_front=(0, 1),
        chosen=0,
        num_by_state={"complete": 2, "stopped": 1},
        worker_seconds=12.5,
    )


def model(name: str = "student", *, num_params: int = 60_000) -> ModelArtifact:
    """A model artifact with a curve."""
    reference = ArtifactRef(key=f"artifacts/model/{name}.json", kind="model", sha256=name, size_bytes=70_000, created_at="2026-01-01T00:00:00+00:00")
    curve = tuple({"epoch": float(epoch), "accuracy": 0.9 + epoch / 100} for epoch in range(1, 6))
    return ModelArtifact(
        artifact=reference, family="resnet", num_params=num_params, num_macs=9_000_000, size_bytes=70_000, recipe=RECIPE, curve=curve
    )


def report(*, passed: bool = True) -> EvaluationReport:
    """A comparison with one gate."""
    gate = GateResult(name="accuracy_drop_points", value=0.6, relation="<=", limit=3.0 if passed else 0.5, passed=passed)
    accuracy = MetricValue(value=0.98, ci_low=0.97, ci_high=0.99, n=1000)
    return EvaluationReport(
        model="artifacts/model/student.json",
        dataset_fingerprint="f" * 64,
        split="test",
        teacher=_side("teacher", 700_000, 1.5, accuracy),
        student=_side("student", 60_000, 0.1, MetricValue(value=0.974, ci_low=0.96, ci_high=0.98, n=1000)),
        agreement=accuracy,
        gates=(gate,),
        passed=passed,
        num_test_openings=2,
    )


def _side(name: str, num_params: int, p50_ms: float, accuracy: MetricValue) -> ModelReport:
    latency = LatencyResult(
        graph_sha256=name,
        device="cpu",
        runtime="onnxruntime",
        threads=1,
        batch_size=1,
        p50_ms=p50_ms,
        p95_ms=2 * p50_ms,
        ci_ms=(p50_ms, p50_ms),
        n=500,
    )
    return ModelReport(
        model_sha256=name, num_params=num_params, num_macs=1, size_bytes=4 * num_params, metrics={"accuracy": accuracy}, latency=(latency,)
    )


def record(*, passed: bool = True) -> RunRecord:
    """A finished run."""
    outputs: dict[str, Json] = {
        "teacher": to_json(model("teacher", num_params=700_000)),
        "search": to_json(study()),
        "student": to_json(model()),
        "evaluation": to_json(report(passed=passed)),
        "serving": to_json(Endpoint(app_name="mnist", url="http://127.0.0.1:8000", model_version="1", num_replicas=1, status="RUNNING")),
    }
    stages = tuple(StageRecord(name=name, key=name * 4, status=StageStatus.DONE, outputs=value, duration_s=3.2) for name, value in outputs.items())
    status = RunStatus.DONE if passed else RunStatus.REJECTED
    return RunRecord(
        run_id="mnist-20260101-000000-aaaa",
        pipeline="mnist",
        config={"name": "mnist"},
        versions={"ray": "2.60.0"},
        stages=stages,
        status=status,
        started_at="2026-01-01T00:00:00+00:00",
        warnings=("a <warning> & more",),
    )
