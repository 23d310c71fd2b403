"""MiniLM that learnt to tell spam, made smaller: trained on the older groups of mails, judged on the newer ones. Three seeds.

python -m benchmarks.compress_text           about 30 minutes on two cores, writes results
python -m benchmarks.compress_text --quick   one seed at the smoke scale; writes none

The teacher is that of `foundry run examples/spam/minilm.yaml`; the student is what `foundry_ray.compression.compress` makes of it with `RECIPE`,
which was settled on the newest quarter of the older groups, put aside for it. Test, the newer groups, is opened once per seed for the frozen student,
and both sides answer as they are served: by their ONNX files. Latencies: all files of a seed side by side in alternating blocks, a mail of 128 tokens
at batch 1 on one thread; the claim is on onnxruntime for both, what each takes in OpenVINO and the teacher in int8 stand beside it. Needs what the
pipeline's first lines say, and the extra `openvino`. An interrupted run goes on: `foundry run` where it was, and a finished seed is a line of a log.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.compress_fashion_rows import Interval
from benchmarks.record import Claim, Log, foundry, tell, timed, work_folder
from benchmarks.stages import Stages
from foundry_ray import data, models, tasks
from foundry_ray.artifacts import open_store
from foundry_ray.clock import SystemClock
from foundry_ray.compression import Options, compress, quantize_onnx
from foundry_ray.config import Settings, TrainConfig
from foundry_ray.data import Split
from foundry_ray.evaluation import Served, measure_together
from foundry_ray.inference import load_served, open_runtime, run_batched
from foundry_ray.protocols import ArtifactStore, Given, RuntimeChoice
from foundry_ray.types import DatasetRef, ModelArtifact, Scalar

RECIPE: Mapping[str, Scalar] = {
    "trim_vocabulary.min_count": 2,
    "factorize.embedding_ratio": 0.25,
    "prune.layers_ratio": 0.5,
    "prune.heads_ratio": 0.17,
    "prune.ratio": 0.17,
    "prune.scope": "group",
    "prune.round_to": 32,
    "distil_alpha": 0.7,
    "distil_temperature": 2.0,
    "weight_bits": 8,
}
_TRAIN = {"epochs": 5, "batch_size": 32, "lr": 5e-4, "schedule": "one_cycle", "weight_decay": 0.01, "dropout": 0.1}
_PIPELINE = "examples/spam/minilm.yaml"
_SEEDS = (0, 1, 2)
_TIMEOUT_S = 3_000.0
_BUDGET_S = 2.0
_RUNTIMES: Mapping[str, RuntimeChoice] = {
    "onnxruntime": RuntimeChoice(threads=1),
    "openvino": RuntimeChoice(name="openvino", threads=1),
    "openvino bf16": RuntimeChoice(name="openvino", threads=1, precision="bf16"),
}
_SAME = "onnxruntime"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A served file: accuracies as shares, latencies in ms by runtime."""

    num_params: int
    num_macs: int
    size_bytes: int
    val_accuracy: float
    test_accuracy: float
    p50_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """One seed: both sides, the teacher in int8 alone, what each step came to, and minutes from the rows to the published student."""

    seed: int
    teacher: Side
    student: Side
    int8_p50_ms: Mapping[str, float]
    int8_val_accuracy: float
    steps: Sequence[str]
    minutes: float
    num_test_openings: int

    @property
    def drop_points(self) -> float:
        """Points that the student lost on test."""
        return 100 * (self.teacher.test_accuracy - self.student.test_accuracy)

    @property
    def latency_ratio(self) -> float:
        """p50 of the teacher / that of the student, in one runtime."""
        return self.teacher.p50_ms[_SAME] / self.student.p50_ms[_SAME]


def measure(seed: int, uri: str, env: Mapping[str, str], *, is_quick: bool) -> Seed:
    """Train the teacher, make the student, time all files, and open test."""
    began = time.monotonic()
    dataset, teacher = _taught(seed, uri, env, is_quick=is_quick)
    store = open_store(uri, settings=Settings(home=work_folder("compress_text")))
    train = {**_TRAIN, "epochs": 1} if is_quick else _TRAIN
    given, options = _given(dataset, store, seed), Options(seed=seed, views=1)
    student = compress(
        models.load_model(store, teacher),
        RECIPE,
        given,
        train=TrainConfig.model_validate(train),
        options=options,
        store=store,
    )
    minutes = (time.monotonic() - began) / 60
    files = {"teacher": load_served(store, teacher), "student": load_served(store, student)}
    assert given.inputs_N is not None, "a data set has rows"
    files["int8"] = quantize_onnx(files["teacher"], given.inputs_N[: options.calibration_rows])
    times = _together(files)
    val = data.load_split(dataset, "val", store=store)
    test = data.open_test(dataset, store=store, frozen_sha256=student.artifact.sha256, clock=SystemClock())
    teacher_side, student_side = (
        Side(
            num_params=model.num_params,
            num_macs=model.num_macs,
            size_bytes=len(files[name]),
            val_accuracy=_accuracy(files[name], val),
            test_accuracy=_accuracy(files[name], test),
            p50_ms=times[name],
        )
        for name, model in (("teacher", teacher), ("student", student))
    )
    return Seed(
        seed=seed,
        teacher=teacher_side,
        student=student_side,
        int8_p50_ms=times["int8"],
        int8_val_accuracy=_accuracy(files["int8"], val),
        steps=student.notes,
        minutes=minutes,
        num_test_openings=data.num_test_openings(dataset, store),
    )


def _taught(seed: int, uri: str, env: Mapping[str, str], *, is_quick: bool) -> tuple[DatasetRef, ModelArtifact]:
    scale = ("--scale", "smoke") if is_quick else ()
    arguments = (_PIPELINE, *scale, "--set", f"seed={seed}", "--store", uri, "--until", "teacher")
    stages = Stages.run(*arguments, env=env, timeout_s=_TIMEOUT_S)
    return stages.output("data", DatasetRef), stages.output("teacher", ModelArtifact)


def _given(dataset: DatasetRef, store: ArtifactStore, seed: int) -> Given:
    split = data.load_split(dataset, "train", store=store)
    return Given(schema=dataset.schema, task=dataset.task, inputs_N=split.inputs_N, labels_N=split.labels_N, seed=seed)


def _together(files: Mapping[str, bytes]) -> dict[str, dict[str, float]]:
    """Median times in ms of every file in every runtime, taken in turns."""
    pairs = [(name, runtime) for name in files for runtime in _RUNTIMES]
    served = [Served(onnx=files[name], runtime=_RUNTIMES[runtime]) for name, runtime in pairs]
    found = measure_together(served, batch_size=1, budget_s=_BUDGET_S, clock=SystemClock())
    times: dict[str, dict[str, float]] = {name: {} for name in files}
    for (name, runtime), result in zip(pairs, found, strict=True):
        times[name][runtime] = result.p50_ms
    return times


def _accuracy(onnx: bytes, split: Split) -> float:
    logits_NC = run_batched(open_runtime(onnx), split.inputs_N)
    return float(tasks.get("text_classification").correct(logits_NC, split.labels_N).mean())


def claims(seeds: Sequence[Seed]) -> list[Claim]:
    """The worst seed in size and speed, the mean of them in accuracy."""
    runs = [{**asdict(one), "drop_points": one.drop_points, "latency_ratio": one.latency_ratio} for one in seeds]
    drop = Interval.of([one.drop_points for one in seeds])
    on_val = Interval.of([100 * (one.teacher.val_accuracy - one.student.val_accuracy) for one in seeds])
    what = f"MiniLM fine-tuned on spam, the student of {len(seeds)} seeds"
    return [
        Claim(
            name="compress_text_params_ratio",
            claim=f"{what}: parameters, embeddings among them, teacher / student, the smallest",
            value=min(one.teacher.num_params / one.student.num_params for one in seeds),
            unit="x",
            runs=[one.teacher.num_params / one.student.num_params for one in seeds],
            peers=_means({"file_ratio": [one.teacher.size_bytes / one.student.size_bytes for one in seeds]})
            | _means({"macs_ratio": [one.teacher.num_macs / one.student.num_macs for one in seeds]}),
        ),
        Claim(
            name="compress_text_latency_ratio",
            claim=f"{what}: p50 of 128 tokens at batch 1, one thread of onnxruntime on both sides, fp32 teacher / student, the smallest",
            value=min(one.latency_ratio for one in seeds),
            unit="x",
            runs=runs,
            peers=_latencies(seeds),
        ),
        Claim(
            name="compress_text_drop_points",
            claim=f"{what}: points of accuracy lost on the newer groups of mails, the mean",
            value=drop.mean,
            unit="points",
            runs=[one.drop_points for one in seeds],
            peers={"ci_low": drop.low, "ci_high": drop.high, "val_mean": on_val.mean, "val_ci_low": on_val.low, "val_ci_high": on_val.high}
            | _means(
                {
                    "teacher": [one.teacher.test_accuracy for one in seeds],
                    "student": [one.student.test_accuracy for one in seeds],
                    "teacher_val": [one.teacher.val_accuracy for one in seeds],
                    "student_val": [one.student.val_accuracy for one in seeds],
                    "int8_teacher_val": [one.int8_val_accuracy for one in seeds],
                }
            ),
        ),
    ]


def _latencies(seeds: Sequence[Seed]) -> dict[str, float]:
    """Means over the seeds, in ms, by side and runtime; and the ratio where each side has its best runtime."""
    sides = {"teacher": [one.teacher.p50_ms for one in seeds], "student": [one.student.p50_ms for one in seeds]}
    sides["int8_teacher"] = [one.int8_p50_ms for one in seeds]
    times = {f"{name}_{runtime.replace(' ', '_')}_ms": [one[runtime] for one in found] for name, found in sides.items() for runtime in _RUNTIMES}
    best = [min(one.teacher.p50_ms.values()) / min(one.student.p50_ms.values()) for one in seeds]
    return {**_means(times), "best_runtimes_ratio": min(best)}


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.mean(numbers) for name, numbers in values.items()}


def main(arguments: Sequence[str] = ()) -> None:
    """Do the seeds that are missing; write the claims where all are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one seed at the smoke scale, no results")
    options = parser.parse_args(arguments)
    folder = work_folder("compress_text")
    uri = f"file://{folder / ('look' if options.quick else 'store')}"
    log = Log.of(folder / ("look.jsonl" if options.quick else "seeds.jsonl"), Seed, is_new=options.quick)
    env = {"FOUNDRY_HOME": str(folder)}
    assert timed(foundry("data", "fetch", "spam_assassin"), env=env).code == 0, "the mails could not be fetched"
    for seed in _SEEDS[:1] if options.quick else _SEEDS:
        if seed not in {one.seed for one in log.rows}:
            log.add(measure(seed, uri, env, is_quick=options.quick))
            print(_line(log.rows[-1]), flush=True)
    tell(claims(log.rows), is_quick=options.quick)
    if not options.quick:
        log.path.unlink()


def _line(one: Seed) -> str:
    sides = ", ".join(
        f"{name} {side.num_params / 1e6:.2f} M parameters, val {side.val_accuracy:.4f}, test {side.test_accuracy:.4f}, {side.p50_ms[_SAME]:.2f} ms"
        for name, side in (("teacher", one.teacher), ("student", one.student))
    )
    return f"seed {one.seed}: {sides}, {one.minutes:.1f} min"


if __name__ == "__main__":
    main(sys.argv[1:])
