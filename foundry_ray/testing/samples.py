"""Finished values of every type, for tests of what reads them: a run whose stages are all done."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

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
    Param,
    RunRecord,
    RunStatus,
    Scalar,
    SearchSpace,
    StageRecord,
    StageStatus,
    Step,
    StudyProgress,
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


SPACE = SearchSpace(
    params=(
        Param(name="lr", kind="float", low=1e-4, high=1e-1, log=True),
        Param(name="width", kind="int", low=8, high=32, step=8),
        Param(name="optimizer", kind="categorical", choices=("adamw", "sgd")),
        Param(name="momentum", kind="float", low=0.5, high=0.99, when={"optimizer": ("sgd",)}),
    ),
    objectives=OBJECTIVES,
    constraints=("num_params <= 90000",),
)


def searched(num_trials: int = 40, *, seed: int = 0) -> StudyResult:
    """A study over `SPACE`: `lr` alone makes students accurate, `width` alone makes them slow and large. A third was trained to the end (9 epochs),
    the others were stopped after 1. Of every ten, one breaks the constraint (width 32), one failed, one repeats the one before, and one is no
    faster than the teacher."""
    random = Random(seed)
    trials = [_searched(number, random) for number in range(num_trials)]
    trials = [_odd(one, trials[one.number - 1]) for one in trials]
    seen = [one for one in trials if "accuracy" in one.values and not (one.error or "").startswith("the same")]
    points = {one.number: (-one.values["accuracy"], one.values["latency_p50_ms"], one.values["size_bytes"]) for one in seen}
    front = [number for number, point in points.items() if not any(_dominates(other, point) for other in points.values())]
    complete = [one for one in seen if one.state is TrialState.COMPLETE]
    return StudyResult(
        study_name="study-kkkkkkkk",
        study_key="k" * 32,
        trials=tuple(trials),
        objectives=OBJECTIVES,
        pareto_front=tuple(front),
        chosen=max(complete, key=lambda one: one.values["accuracy"]).number,
        num_by_state={str(state): sum(one.state is state for one in trials) for state in TrialState if any(one.state is state for one in trials)},
        worker_seconds=sum(one.duration_s for one in trials),
        history=tuple(
            StudyProgress(at_s=10.0 * step, worker_seconds=20.0 * step, epochs=3 * step, num_trials=step, hypervolume=1 - 1 / (step + 1))
            for step in range(1, num_trials + 1)
        ),
        stopped_by="trials",
        cost=0.25,
    )


def _searched(number: int, random: Random) -> Trial:
    width, lr, optimizer = random.choice((8, 16, 24)), 10 ** random.uniform(-4, -1), random.choice(("adamw", "sgd"))
    params: dict[str, Scalar] = {"lr": lr, "width": width, "optimizer": optimizer}
    if optimizer == "sgd":
        params["momentum"] = random.uniform(0.5, 0.99)
    epochs = 9 if number % 3 == 0 else 1
    ceiling = 0.98 - 0.05 * abs(math.log10(lr) + 2.5)
    curve = tuple({"epoch": float(epoch), "accuracy": ceiling - 0.2 / (1 + epoch)} for epoch in range(1, epochs + 1))
    values = {"accuracy": curve[-1]["accuracy"], "latency_p50_ms": width / 20, "latency_p95_ms": width / 16, "size_bytes": 1000.0 * width}
    return Trial(
        trial_id=f"t{number:05d}",
        number=number,
        params=params,
        recipe=RECIPE,
        state=TrialState.COMPLETE if epochs == 9 else TrialState.STOPPED,
        rung=2 if epochs == 9 else 0,
        resource_used=epochs,
        values={**values, "num_params": 100.0 * width**2, "num_macs": 1e4 * width**2},
        curve=curve,
        checkpoint=f"studies/{'k' * 32}/trials/{number:06d}/{epochs:06d}-{'c' * 32}.safetensors",
        duration_s=2.0 * epochs,
        device="recorded",
    )


def _odd(one: Trial, before: Trial) -> Trial:
    known = {name: value for name, value in one.values.items() if name != "accuracy"}
    nothing = replace(one, rung=None, resource_used=0, curve=(), checkpoint=None)
    if one.number % 10 == 4:
        values = {**known, "num_params": 102_400.0}
        return replace(
            nothing, params={**one.params, "width": 32}, state=TrialState.INFEASIBLE, values=values, error="num_params is 102400, wanted <= 90000"
        )
    if one.number % 10 == 5:
        return replace(nothing, state=TrialState.FAILED, values=known, error="the loss is not finite", num_failures=1)
    if one.number % 10 == 7:
        error = f"the same as trial {before.number} after rounding, whose values these are"
        return replace(nothing, params=before.params, state=TrialState.STOPPED, values=before.values, error=error)
    if one.number % 10 == 8:
        return replace(nothing, state=TrialState.STOPPED, values=known, dominated="p50 is 1.2 ms, the teacher's 1.2 ms")
    return one


def _dominates(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))


def model(name: str = "student", *, num_params: int = 60_000) -> ModelArtifact:
    """A model artifact with a curve."""
    reference = ArtifactRef(key=f"artifacts/model/{name}.json", kind="model", sha256=name, size_bytes=70_000, created_at="2026-01-01T00:00:00+00:00")
    curve = tuple({"epoch": float(epoch), "accuracy": 0.9 + epoch / 100} for epoch in range(1, 6))
    return ModelArtifact(
        artifact=reference,
        family="resnet",
        num_params=num_params,
        num_macs=9_000_000,
        size_bytes=70_000,
        recipe=RECIPE,
        curve=curve,
        val_metrics={"accuracy": 0.95},
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


def searched_record(num_trials: int = 40) -> RunRecord:
    """A finished run whose study is `searched`."""
    done = record()
    teacher = replace(model("teacher", num_params=700_000), val_metrics={"accuracy": 0.98})
    outputs: dict[str, Json] = {"teacher": to_json(teacher), "search": to_json(searched(num_trials))}
    return replace(done, stages=tuple(replace(stage, outputs=outputs.get(stage.name, stage.outputs)) for stage in done.stages))
