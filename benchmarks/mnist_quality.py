"""The shipped pipeline under three seeds: what the teacher and the student reach on test, and how much smaller and faster the student is.

    python -m benchmarks.mnist_quality

Resumable: every seed is a pipeline run whose finished stages are reused.
"""

from __future__ import annotations

import json
import statistics

from benchmarks.record import Claim, foundry, timed, work_folder
from foundry_ray.types import EvaluationReport, Json, from_json

_SEEDS = (0, 1, 2)


def _report(seed: int, home: str) -> EvaluationReport:
    done = timed(
        foundry("run", "pipeline.yaml", "--set", f"seed={seed}", "--set", "serve.enabled=false", "--keep", "--json"), env={"FOUNDRY_HOME": home}
    )
    assert done.code in (0, 3), f"seed {seed} ended with exit code {done.code}"
    stages = json.loads(done.stdout)["stages"]
    outputs: Json = next(stage["outputs"] for stage in stages if stage["name"] == "evaluation")
    return from_json(EvaluationReport, outputs, what=f"report of seed {seed}")


def main() -> None:
    """Run the seeds and write one claim per number."""
    home = str(work_folder("mnist"))
    timed(foundry("data", "fetch", "mnist_5k"), env={"FOUNDRY_HOME": home})
    reports = [_report(seed, home) for seed in _SEEDS]
    timed(foundry("cluster", "down"), env={"FOUNDRY_HOME": home})
    timed(foundry("store", "stop"), env={"FOUNDRY_HOME": home})
    rows: dict[str, tuple[str, str, list[float]]] = {
        "mnist_teacher_accuracy": ("teacher's accuracy on test", "share", [one.teacher.metrics["accuracy"].value for one in reports]),
        "mnist_student_drop_points": (
            "student's accuracy below the teacher's, on test",
            "points",
            [100 * (one.teacher.metrics["accuracy"].value - one.student.metrics["accuracy"].value) for one in reports],
        ),
        "mnist_params_ratio": ("teacher's parameters / student's", "x", [one.teacher.num_params / one.student.num_params for one in reports]),
        "mnist_size_ratio": ("teacher's served bytes / student's", "x", [one.teacher.size_bytes / one.student.size_bytes for one in reports]),
        "mnist_latency_ratio": (
            "teacher's p50 at batch 1 / student's, same runtime, side by side",
            "x",
            [one.teacher.latency[0].p50_ms / one.student.latency[0].p50_ms for one in reports],
        ),
    }
    for name, (claim, unit, values) in rows.items():
        Claim(name=name, claim=f"MNIST-5k, mean of {len(_SEEDS)} seeds: {claim}", value=statistics.mean(values), unit=unit, runs=values).write()


if __name__ == "__main__":
    main()
