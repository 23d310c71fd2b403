"""The winner: what the whole toolbox makes of the Fashion-MNIST teacher, chosen on val by the policy alone. Three seeds.

python -m benchmarks.compress_winner           about 55 minutes on two cores with the teachers there, writes results
python -m benchmarks.compress_winner --quick   one seed at the smoke scale; writes none

Each seed is `foundry run examples/fashion_mnist/toolbox.yaml`: one sweep, and of it two points, each a policy. The trial that a policy chooses is
trained to its end, frozen, and then test is opened for it; both points of a seed are trained at once, one on each core. The teachers are those of
`benchmarks.train_fashion`, whose store is copied, so that neither data nor teacher are made again. Latencies: all files of a seed side by side in
alternating blocks at batch 1 on one thread, in onnxruntime and in OpenVINO (`pip install 'foundry-ray[openvino]'`), the teacher in int8 beside them,
whose accuracy is on val. An interrupted run goes on: `foundry run` where it was, and a finished seed is a line of a log.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import fashion
from benchmarks.record import ROOT, Claim, Log, tell, work_folder
from benchmarks.stages import Stages
from foundry_ray import data, tasks
from foundry_ray.artifacts import open_store
from foundry_ray.artifacts.manifests import read_file
from foundry_ray.clock import SystemClock
from foundry_ray.compression import quantize_onnx, runtime_of
from foundry_ray.config import Settings
from foundry_ray.evaluation import Served, measure_together
from foundry_ray.inference import load_served, open_choice, run_batched
from foundry_ray.protocols import ArtifactStore, RuntimeChoice
from foundry_ray.types import DatasetRef, EvaluationReport, ModelArtifact, Scalar, StudyResult

_PIPELINE, _SPACE = "examples/fashion_mnist/toolbox.yaml", "search_spaces/joint_toolbox.yaml"
_SEEDS = (0, 1, 2)
_TIMEOUT_S = 5_400.0
_BUDGET_S = 2.0
_RUNTIMES = ("onnxruntime", "openvino")
_LARGER = ("--set", "search.choose=best under 174k params", "--set", "gates={accuracy_drop_points: 0.5, size_ratio: 0.25, params_ratio: 0.25}")
"""The second point of the sweep: a quarter of the teacher's parameters; the first is the pipeline's own policy."""
_POINTS: Mapping[str, tuple[str, ...]] = {"winner": (), "larger": _LARGER}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A student that a policy chose: accuracies as shares, latencies in ms by runtime, `runtime` the one that it ships with."""

    trial: int
    epochs: int
    params: Mapping[str, Scalar]
    runtime: str
    num_params: int
    num_macs: int
    size_bytes: int
    val_accuracy: float
    test_accuracy: float
    drop_points: float
    drop_interval: tuple[float, float]
    gates: Mapping[str, bool]
    p50_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """One seed: the teacher in fp32 and in int8, the sweep, and the students. `asked_sha256`: of the pipeline and the space, as they were."""

    seed: int
    asked_sha256: str
    num_params: int
    num_macs: int
    size_bytes: int
    val_accuracy: float
    test_accuracy: float
    p50_ms: Mapping[str, float]
    int8_p50_ms: Mapping[str, float]
    int8_size_bytes: int
    int8_val_accuracy: float
    num_by_state: Mapping[str, int]
    epochs: int
    minutes: Mapping[str, float]
    num_test_openings: int
    points: Mapping[str, Point]


def measure(seed: int, uri: str, env: Mapping[str, str], *, is_quick: bool) -> Seed:
    """Sweep, finish both points, open test for each, and time all files together."""
    scale = ("--scale", "smoke") if is_quick else ()
    arguments = (_PIPELINE, *scale, "--set", f"seed={seed}", "--store", uri)
    run = functools.partial(Stages.run, env=env, timeout_s=_TIMEOUT_S, may_reject=True)
    swept = run(*arguments, "--until", "search")
    with ThreadPoolExecutor(len(_POINTS)) as pool:
        done = dict(zip(_POINTS, pool.map(lambda settings: run(*arguments, *settings), _POINTS.values()), strict=True))
    store = open_store(uri, settings=Settings(home=work_folder("fashion")))
    dataset, teacher = swept.output("data", DatasetRef), swept.output("teacher", ModelArtifact)
    study = swept.output("search", StudyResult)
    students = {name: stages.output("student", ModelArtifact) for name, stages in done.items()}
    files = {"teacher": load_served(store, teacher), **{name: load_served(store, student) for name, student in students.items()}}
    files["int8"] = quantize_onnx(read_file(store, teacher.artifact.key, "model.onnx"), data.load_split(dataset, "train", store=store).inputs_N[:256])
    times = _together(files)
    reports = {name: stages.output("evaluation", EvaluationReport) for name, stages in done.items()}
    minutes = {"search": swept.minutes("search"), **{name: stages.minutes("student") for name, stages in done.items()}}
    return Seed(
        seed=seed,
        asked_sha256=_asked(),
        num_params=teacher.num_params,
        num_macs=teacher.num_macs,
        size_bytes=len(files["teacher"]),
        val_accuracy=teacher.val_metrics["accuracy"],
        test_accuracy=reports["winner"].teacher.metrics["accuracy"].value,
        p50_ms=times["teacher"],
        int8_p50_ms=times["int8"],
        int8_size_bytes=len(files["int8"]),
        int8_val_accuracy=_on_val(files["int8"], dataset, store),
        num_by_state=study.num_by_state,
        epochs=sum(trial.resource_used for trial in study.trials),
        minutes=minutes,
        num_test_openings=data.num_test_openings(dataset, store),
        points={name: _point(done[name].output("search", StudyResult), students[name], reports[name], times[name]) for name in _POINTS},
    )


def _point(study: StudyResult, student: ModelArtifact, report: EvaluationReport, p50_ms: Mapping[str, float]) -> Point:
    trial, drop = study.chosen_trial, report.student.metrics["accuracy_drop"]
    return Point(
        trial=trial.number,
        epochs=len(student.curve),
        params=dict(trial.params),
        runtime=runtime_of(trial.recipe).name,
        num_params=student.num_params,
        num_macs=student.num_macs,
        size_bytes=student.size_bytes,
        val_accuracy=student.val_metrics["accuracy"],
        test_accuracy=report.student.metrics["accuracy"].value,
        drop_points=100 * drop.value,
        drop_interval=(100 * drop.ci_low, 100 * drop.ci_high),
        gates={gate.name: gate.passed for gate in report.gates},
        p50_ms=p50_ms,
    )


def _together(files: Mapping[str, bytes]) -> dict[str, dict[str, float]]:
    """p50 in ms of each file in each runtime."""
    asked = [(name, RuntimeChoice(name=runtime, threads=1)) for name in files for runtime in _RUNTIMES]
    served = [Served(onnx=files[name], runtime=choice) for name, choice in asked]
    results = measure_together(served, batch_size=1, budget_s=_BUDGET_S, clock=SystemClock())
    found: dict[str, dict[str, float]] = {name: {} for name in files}
    for (name, choice), result in zip(asked, results, strict=True):
        found[name][choice.name] = result.p50_ms
    return found


def _on_val(onnx: bytes, dataset: DatasetRef, store: ArtifactStore) -> float:
    val = data.load_split(dataset, "val", store=store)
    logits_NC = run_batched(open_choice(onnx, RuntimeChoice()), val.inputs_N)
    return float(tasks.get(dataset.task).correct(logits_NC, val.labels_N).mean())


def claims(seeds: Sequence[Seed]) -> list[Claim]:
    """Means over the seeds; what differs from seed to seed is among the runs."""
    winner, larger = ([one.points[name] for one in seeds] for name in _POINTS)
    found = {
        "winner_teacher_accuracy": ("the teacher's accuracy on test", "share", [one.test_accuracy for one in seeds]),
        "winner_accuracy": ("the winner's accuracy on test", "share", [one.test_accuracy for one in winner]),
        "winner_drop_points": ("the winner's accuracy below its teacher's, on test", "points", [one.drop_points for one in winner]),
        "winner_params_ratio": ("teacher's parameters / winner's", "x", _ratios(seeds, winner)),
        "winner_latency_ratio": ("p50 at batch 1 of the fp32 teacher / of the winner, in the winner's runtime", "x", _faster(seeds, winner)),
        "winner_larger_params_ratio": ("teacher's parameters / those of a second point of the sweep", "x", _ratios(seeds, larger)),
        "winner_larger_drop_points": ("the second point's accuracy below its teacher's, on test", "points", [one.drop_points for one in larger]),
    }
    runs = [asdict(one) for one in seeds]
    return [
        Claim(
            name=name,
            claim=f"Fashion-MNIST, whole toolbox, mean of {len(seeds)} seeds: {claim}",
            value=statistics.mean(values),
            unit=unit,
            runs=runs if name == "winner_accuracy" else values,
            peers={"min": min(values), "max": max(values)},
        )
        for name, (claim, unit, values) in found.items()
    ]


def _ratios(seeds: Sequence[Seed], points: Sequence[Point]) -> list[float]:
    return [one.num_params / point.num_params for one, point in zip(seeds, points, strict=True)]


def _faster(seeds: Sequence[Seed], points: Sequence[Point]) -> list[float]:
    return [one.p50_ms[point.runtime] / point.p50_ms[point.runtime] for one, point in zip(seeds, points, strict=True)]


def _store(*, is_quick: bool) -> str:
    """The address of this benchmark's store, which begins as a copy of the teachers'."""
    for seed in _SEEDS[:1] if is_quick else _SEEDS:
        fashion.teacher(seed, is_quick=is_quick)
    source = Path(fashion.store_uri(is_quick=is_quick).removeprefix("file://"))
    folder = work_folder("compress_winner") / source.name
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        part.rename(folder)
    return f"file://{folder}"


def main(arguments: Sequence[str] = ()) -> None:
    """Do the seeds that are missing; write the claims where all are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one seed at the smoke scale, no results")
    options = parser.parse_args(arguments)
    log = Log.of(work_folder("compress_winner") / ("look.jsonl" if options.quick else "seeds.jsonl"), Seed, is_new=options.quick)
    seeds = [one for one in log.rows if one.asked_sha256 == _asked()]
    env, uri = fashion.home(), _store(is_quick=options.quick)
    for number in _SEEDS[:1] if options.quick else _SEEDS:
        if number not in {one.seed for one in seeds}:
            seeds.append(measure(number, uri, env, is_quick=options.quick))
            log.add(seeds[-1])
            print(_said(seeds[-1]), flush=True)
    tell(claims(seeds), is_quick=options.quick)
    if not options.quick:
        log.path.unlink()
        shutil.rmtree(uri.removeprefix("file://"))


def _asked() -> str:
    return hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in (_PIPELINE, _SPACE))).hexdigest()


def _said(one: Seed) -> str:
    found = [f"seed {one.seed}: teacher {one.test_accuracy:.4f} on test"]
    for name, point in one.points.items():
        found.append(f"{name} {point.num_params:,} parameters, {point.test_accuracy:.4f} ({point.drop_points:+.2f} points below)")
    return "; ".join(found) + "; minutes " + ", ".join(f"{name} {minutes:.1f}" for name, minutes in one.minutes.items())


if __name__ == "__main__":
    main(sys.argv[1:])
