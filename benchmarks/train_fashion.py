"""What the teacher of the Fashion-MNIST example reaches on test, and how long it trains: three seeds, two workers with DeepSpeed.

python -m benchmarks.train_fashion           about 45 minutes, writes results
python -m benchmarks.train_fashion --quick   the smoke scale of one seed; writes none

Each seed is `foundry run examples/fashion_mnist/pipeline.yaml --until teacher` with another seed and split: val, out of the 60,000 training
rows, chooses the epoch; then test is opened once, with the hash of the published model, and its ONNX file is judged. Minutes are those of the
teacher stage, from starting the workers to the published model. A seed that was interrupted begins again, so that they are of an unbroken run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks import fashion
from benchmarks.fashion import PIPELINE
from benchmarks.record import Claim, Log, tell, work_folder
from benchmarks.stages import Stages
from foundry_ray import data, tasks
from foundry_ray.artifacts import open_store
from foundry_ray.clock import SystemClock
from foundry_ray.config import Settings
from foundry_ray.inference import load_served, open_runtime, run_batched
from foundry_ray.types import DatasetRef, ModelArtifact

_SEEDS = (0, 1, 2)
_TIMEOUT_S = 2_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One seed: accuracies as shares, minutes of the teacher stage, the epoch that val chose and the curve."""

    seed: int
    test_accuracy: float
    val_accuracy: float
    minutes: float
    epoch: int
    num_params: int
    num_test_openings: int
    curve: tuple[dict[str, float], ...]


def measure(seed: int, *, is_quick: bool) -> Run:
    """Train, then open test."""
    store = fashion.store_uri(is_quick=is_quick)
    settings = ("--scale", "smoke") if is_quick else ()
    arguments = (PIPELINE, *settings, "--set", f"seed={seed}", "--store", store, "--until", "teacher", "--fresh", "teacher")
    stages = Stages.run(*arguments, env=fashion.home(), timeout_s=_TIMEOUT_S)
    dataset, teacher = stages.output("data", DatasetRef), stages.output("teacher", ModelArtifact)
    accuracy, num_openings = _on_test(dataset, teacher, store, Settings(home=work_folder("fashion")))
    curve = tuple(dict(metrics) for metrics in teacher.curve)
    best = max(range(len(curve)), key=lambda index: curve[index]["accuracy"])
    return Run(
        seed=seed,
        test_accuracy=accuracy,
        val_accuracy=teacher.val_metrics["accuracy"],
        minutes=stages.minutes("teacher"),
        epoch=best + 1,
        num_params=teacher.num_params,
        num_test_openings=num_openings,
        curve=curve,
    )


def _on_test(dataset: DatasetRef, teacher: ModelArtifact, uri: str, settings: Settings) -> tuple[float, int]:
    """Accuracy of the served file on test, and how often test was read by then."""
    store, task = open_store(uri, settings=settings), tasks.get("image_classification")
    test = data.open_test(dataset, store=store, frozen_sha256=teacher.artifact.sha256, clock=SystemClock())
    logits_NC = run_batched(open_runtime(load_served(store, teacher)), test.inputs_N)
    return float(task.correct(logits_NC, test.labels_N).mean()), data.num_test_openings(dataset, store)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The mean of the seeds, and the slowest of them."""
    accuracies, minutes = [run.test_accuracy for run in runs], [run.minutes for run in runs]
    seen = {
        "test_accuracy_min": min(accuracies),
        "test_accuracy_max": max(accuracies),
        "val_accuracy": statistics.mean(run.val_accuracy for run in runs),
    }
    size = f"{runs[0].num_params / 1e6:.2f} M parameters"
    return [
        Claim(
            name="fashion_teacher_accuracy",
            claim=f"Fashion-MNIST, mean of {len(runs)} seeds whose epoch val chose: the teacher's accuracy on test, {size}",
            value=statistics.mean(accuracies),
            unit="share",
            runs=[asdict(run) for run in runs],
            peers=seen,
        ),
        Claim(
            name="fashion_teacher_minutes",
            claim="Fashion-MNIST: the teacher stage of the slowest seed, 2 workers on 2 cores, from their start to the published model",
            value=max(minutes),
            unit="min",
            runs=minutes,
            peers={"mean_minutes": statistics.mean(minutes)},
        ),
    ]


def main(arguments: Sequence[str] = ()) -> None:
    """Train the seeds that are missing; write the claims where all are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one seed at the smoke scale, no results")
    options = parser.parse_args(arguments)
    log = Log.of(work_folder("train_fashion") / ("look.jsonl" if options.quick else "runs.jsonl"), Run, is_new=options.quick)
    for seed in _SEEDS[:1] if options.quick else _SEEDS:
        if seed not in {run.seed for run in log.rows}:
            run = measure(seed, is_quick=options.quick)
            log.add(run)
            print(f"seed {seed}: test {run.test_accuracy:.4f}, val {run.val_accuracy:.4f} at epoch {run.epoch}, {run.minutes:.1f} min", flush=True)
    tell(claims(log.rows), is_quick=options.quick)
    if not options.quick:
        log.path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
