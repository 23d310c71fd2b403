"""Our joint recipes beside other libraries on one trained model: accuracy on val against latency, every file in its fastest runtime.

python -m benchmarks.compress_peers           about 35 minutes on two quiet cores, writes results
python -m benchmarks.compress_peers --quick   few rows and students; writes none

The teacher is the 0.70 M Fashion-MNIST ResNet of seed 0. Torch-Pruning alone (its importance, plain fine-tuning) at three ratios; onnxruntime's own
quantization, static and dynamic; NNCF's int8, after training and in it; torchao's int8 for x86. Ours prune, distil and quantize in one call of
`compress`. All get the same rows, and where they train the same epochs, optimizer and learning rate; and the same judge: accuracy on val, and p50 at
batch 1 on one thread, all files in turns in one process. Two seeds of everything that draws; how much they differ is the noise. Two students are made
at a time, one on each core. Each is kept as soon as it is made, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import fashion
from benchmarks.peers_compress.front import Noise, Student, compare, noise
from benchmarks.peers_compress.job import Job
from benchmarks.peers_compress.launch import peers_python, run
from benchmarks.record import Claim, Log, tell, work_folder
from foundry_ray import data
from foundry_ray.artifacts import manifests, open_store
from foundry_ray.config import Settings

_NAME, _OURS = "compress_peers", "ours"
_TIMEOUT_S = 3_000.0
_TEACHER_FILES = ("model.onnx", "model.safetensors", "architecture.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contestant:
    """A script of `peers_compress`, what it is asked for, and which of that trains, or draws nothing at random."""

    script: str
    points: tuple[str, ...]
    quick: tuple[str, ...]
    trains: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()


_OUR_RATIOS, _PEER_RATIOS = ("0.1", "0.2", "0.5", "0.7"), ("0.3", "0.5", "0.7")
_CONTESTANTS = {
    _OURS: _Contestant(script="ours", points=_OUR_RATIOS, quick=("0.7",), trains=_OUR_RATIOS),
    "torch_pruning": _Contestant(script="torch_pruning", points=_PEER_RATIOS, quick=("0.5",), trains=_PEER_RATIOS),
    "nncf": _Contestant(script="nncf_quantization", points=("qat", "static"), quick=("static",), trains=("qat",)),
    "torchao": _Contestant(script="torchao_pt2e", points=("static",), quick=("static",)),
    "onnxruntime": _Contestant(script="ort_quantization", points=("static", "dynamic"), quick=("static",), fixed=("dynamic",)),
}
_LABELS = {"torch_pruning": "Torch-Pruning", "nncf": "NNCF", "torchao": "torchao", "onnxruntime": "onnxruntime's quantization"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """How much is done."""

    epochs: int
    num_rows: int
    num_val: int
    seeds: tuple[int, ...]
    budget_s: float
    is_quick: bool

    def points(self, contestant: _Contestant) -> tuple[str, ...]:
        """What a contestant is asked for."""
        return contestant.quick if self.is_quick else contestant.points


_FULL = _Scale(epochs=2, num_rows=54_000, num_val=6_000, seeds=(0, 1), budget_s=90.0, is_quick=False)
_QUICK = _Scale(epochs=1, num_rows=512, num_val=500, seeds=(0,), budget_s=5.0, is_quick=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One student of one seed."""

    contestant: str
    point: str
    seed: int
    num_params: int
    seconds: float
    note: str

    @property
    def folder(self) -> str:
        """Under the work folder."""
        return f"{self.contestant}-{self.point}-{self.seed}"


def prepare(folder: Path, scale: _Scale) -> None:
    """Lay out the teacher's files and the rows, once."""
    if (folder / "val.npz").is_file():
        return
    teacher = fashion.teacher(0, is_quick=scale.is_quick)
    store = open_store(teacher.store, settings=Settings(home=work_folder("fashion")))
    (folder / "teacher").mkdir(parents=True, exist_ok=True)
    for name in _TEACHER_FILES:
        (folder / "teacher" / name).write_bytes(manifests.read_file(store, teacher.model.artifact.key, name))
    for split, count in (("train", scale.num_rows), ("val", scale.num_val)):
        rows = data.load_split(teacher.dataset, split, store=store)
        np.savez(folder / f"{split}.npz", images=rows.inputs_N[:count], labels=rows.labels_N[:count])


def make(contestant: str, point: str, seed: int, folder: Path, scale: _Scale) -> Made:
    """One student, in a process of its own."""
    out = folder / f"{contestant}-{point}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with np.load(folder / "train.npz") as rows:
        num_rows = len(rows["labels"])
    paths = {"teacher": str(folder / "teacher"), "rows": str(folder / "train.npz"), "out": str(out)}
    Job(point=point, seed=seed, epochs=scale.epochs, num_rows=num_rows, **paths).write(out / "job.json")
    run(_CONTESTANTS[contestant].script, str(out / "job.json"), log=out / "log", timeout_s=_TIMEOUT_S, is_ours=contestant == _OURS)
    return Made(contestant=contestant, point=point, seed=seed, **json.loads((out / "result.json").read_text()))


def make_missing(folder: Path, scale: _Scale) -> list[Made]:
    """All students; those that an earlier run made are read. One for each core at a time."""
    log = Log.of(folder / "made.jsonl", Made)
    done = {(one.contestant, one.point, one.seed) for one in log.rows}
    wanted = [
        (name, point, seed)
        for seed in scale.seeds
        for name, contestant in _CONTESTANTS.items()
        for point in scale.points(contestant)
        if (name, point, seed) not in done and (seed == scale.seeds[0] or point not in contestant.fixed)
    ]
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        running = [pool.submit(make, name, point, seed, folder, scale) for name, point, seed in wanted]
        try:
            for future in concurrent.futures.as_completed(running):
                one = future.result()
                log.add(one)
                print(f"{one.contestant} {one.point}, seed {one.seed}: {one.num_params:,} parameters in {one.seconds:.0f} s", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return log.rows


def judge(made: Sequence[Made], folder: Path, scale: _Scale) -> list[Student]:
    """Time and judge what was made, all of it in one process."""
    groups: dict[tuple[str, str], list[Made]] = {}
    for one in sorted(made, key=lambda one: one.seed):
        groups.setdefault((one.contestant, one.point), []).append(one)
    students = [{"name": " ".join(name), "folders": [str(folder / one.folder) for one in group]} for name, group in groups.items()]
    asked, answer = folder / "asked.json", folder / "answer.json"
    asked.write_text(json.dumps({"val": str(folder / "val.npz"), "budget_s": scale.budget_s, "students": students}))
    run("timing", str(asked), str(answer), log=folder / "timing.log", timeout_s=_TIMEOUT_S)
    return [
        Student(
            contestant=contestant,
            point=point,
            is_trained=point in _CONTESTANTS[contestant].trains,
            accuracies=tuple(found["accuracies"]),
            p50_ms=found["p50_ms"][found["runtime"]],
            p95_ms=found["p95_ms"],
            runtime=found["runtime"],
            size_bytes=found["size_bytes"],
            num_params=group[0].num_params,
            p50_by_runtime=found["p50_ms"],
            seconds=statistics.mean(one.seconds for one in group),
            note=group[0].note,
        )
        for ((contestant, point), group), found in zip(groups.items(), json.loads(answer.read_text()), strict=True)
    ]


def claims(students: Sequence[Student], epochs: int) -> list[Claim]:
    """For each peer the worst difference over its students, with the noise of both sides' seeds."""
    trained, calibrated = (noise([student for student in students if student.is_trained == is_trained]) for is_trained in (True, False))
    return [_claim(name, students, trained, calibrated, epochs) for name in _CONTESTANTS if name != _OURS]


def _claim(name: str, students: Sequence[Student], trained: Noise, calibrated: Noise, epochs: int) -> Claim:
    ours, peers = ([student for student in students if student.contestant == who] for who in (_OURS, name))
    found = [compare(peer, ours, trained=trained, calibrated=calibrated) for peer in peers]
    worst = min(found, key=lambda one: one.difference + one.half_width)
    per_point: Mapping[str, float] = {
        f"{field}_{one.peer}": value
        for one in found
        for field, value in (("difference", one.difference), ("half_width", one.half_width), ("times_faster_at_no_less", one.faster))
    }
    return Claim(
        name=f"compress_vs_{name}_bound",
        claim=f"Fashion-MNIST ResNet, val: our joint recipe (prune, distil, int8, {epochs} epochs) minus {_LABELS[name]} at no more latency, at the "
        f"worst of {len(found)} points, the upper end of the 95 % interval of repeated seeds",
        value=worst.difference + worst.half_width,
        unit="points",
        runs=[*(asdict(one) for one in found), *({**asdict(student), "accuracy": student.accuracy} for student in [*peers, *ours])],
        peers={**per_point, "noise_trained_points": 100 * trained.deviation, "noise_calibrated_points": 100 * calibrated.deviation},
    )


def main(arguments: Sequence[str] = ()) -> None:
    """Make what is missing, then time and judge all, and write the claims."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few rows and students, no results")
    options = parser.parse_args(arguments)
    scale = _QUICK if options.quick else _FULL
    folder = work_folder(_NAME) / ("look" if options.quick else "students")
    if options.quick:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    peers_python()
    prepare(folder, scale)
    students = judge(make_missing(folder, scale), folder, scale)
    for student in sorted(students, key=lambda student: student.p50_ms):
        accuracies = ", ".join(f"{accuracy:.4f}" for accuracy in student.accuracies)
        size = f"{student.num_params:,} parameters, {student.size_bytes:,} bytes"
        print(f"{student.contestant} {student.point}: {student.p50_ms:.3f} ms in {student.runtime}, val {accuracies}, {size}", flush=True)
    tell(claims(students, scale.epochs), is_quick=options.quick)
    if not options.quick:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
