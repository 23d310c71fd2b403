"""What the steps of the toolbox cost in accuracy on Fashion-MNIST: five seeds, each student beside the teacher that it was made of.

python -m benchmarks.compress_fashion           about an hour on two cores with the teachers there, writes results
python -m benchmarks.compress_fashion --quick   one seed on few rows from the teacher of the smoke scale; writes none

Every student is one call of `foundry_ray.compression.compress`. Seed s compresses the teacher of seed s mod 3 and draws its own held-back and
calibration rows, order and augmentation; all accuracies are those of the file that ships, on val, and test is never opened. Pairs: a student and its
teacher; or two students that began with the same weights out of the teacher and took as many steps, one taught and one not. Where a tenth of the
labels is given, the student without a teacher goes ten times over the rows that have one, so that it takes as many steps as the other. A larger
teacher of a million parameters, trained here with the example's settings in fewer epochs, makes one student of 100,000.

Two processes of one thread each work on the students, the longest first. A finished one is a line of a log, and is not made again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import fashion
from benchmarks.compress_fashion_rows import ALL, CALIBRATIONS, INT8, LABELLED_RATIO, MILLION, PRUNED, QAT, TAUGHT, TENTH, Row, claims
from benchmarks.record import Log, tell, work_folder
from foundry_ray import data, models, tasks
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.clock import SystemClock
from foundry_ray.compression import Fitting, Options, apply_recipe, compress, cost, recipe_from_params
from foundry_ray.config import ModelConfig, TrainConfig
from foundry_ray.data import Split
from foundry_ray.data.hashing import permutation
from foundry_ray.inference import load_served, open_runtime, run_batched
from foundry_ray.observability import ConsoleReporter
from foundry_ray.protocols import ArtifactStore, Given
from foundry_ray.types import ModelArtifact, Scalar, Schema, from_json, to_json

if TYPE_CHECKING:
    from torch import nn

_SEEDS = (0, 1, 2, 3, 4)
_NUM_TEACHERS = 3
_HELD_BACK_RATIO = 1 / 54
_AUGMENT = ("flip", "shift")
_QUICK: Mapping[str, Scalar] = {"epochs": 1, "batch_size": 16}
_TRAIN = TrainConfig(batch_size=128, optimizer="adamw", lr=3e-3, weight_decay=0.05, label_smoothing=0.1, schedule="one_cycle")
"""As the example trains its teacher; arms say what they do otherwise."""
_LARGE, _LARGE_EPOCHS = ModelConfig(family="resnet", width=40, depth=2), 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to make a student.

    Attributes:
        recipe: Steps and training, by plain names.
        is_trained: Whether there is any training.
        share: Of the training rows that are used.
        views: Of each row that the teacher answers for.
        macs_ratio: Channels are pruned until there are so many times fewer MACs; 0: none are.
        labels: `all`; `tenth`: the others are unlabelled; `tenth alone`: the others are left out.
    """

    recipe: Mapping[str, Scalar]
    is_trained: bool = True
    share: float = 1.0
    views: int = 1
    macs_ratio: float = 0.0
    labels: str = "all"


_TAUGHT: Mapping[str, Scalar] = {"distil_alpha": 1.0, "distil_temperature": 4.0}
_TENTH_OF_SIZE: Mapping[str, Scalar] = {"width": 10, "depth": 2, "lr": 6e-3}
_ALL_EPOCHS, _TENTH_EPOCHS = 5, 3
_ARMS: Mapping[str, Arm] = {
    **{f"{INT8} {kind}": Arm(recipe={"weight_bits": 8, "quantize.calibration": kind}, is_trained=False) for kind in CALIBRATIONS},
    QAT: Arm(recipe={"weight_bits": 8, "quantize.qat": True, "quantize.qat_from": 0.0, **_TAUGHT, "epochs": 1, "lr": 2e-4}, share=0.25),
    PRUNED: Arm(recipe={**_TAUGHT, "epochs": 4, "lr": 2e-3}, views=3, macs_ratio=2.1),
    ALL: Arm(recipe={**_TENTH_OF_SIZE, "epochs": _ALL_EPOCHS}),
    f"{ALL}{TAUGHT}": Arm(recipe={**_TENTH_OF_SIZE, **_TAUGHT, "epochs": _ALL_EPOCHS}, views=3),
    TENTH: Arm(recipe={**_TENTH_OF_SIZE, "epochs": round(_TENTH_EPOCHS / LABELLED_RATIO)}, labels="tenth alone"),
    f"{TENTH}{TAUGHT}": Arm(recipe={**_TENTH_OF_SIZE, **_TAUGHT, "distil_alpha": 0.9, "epochs": _TENTH_EPOCHS}, views=2, labels="tenth"),
}
_STUDENT_OF_MILLION = Arm(recipe={"width": 12, "depth": 2, **_TAUGHT, "epochs": 10, "lr": 6e-3}, views=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is compressed: a model, what its file answers right on val, and the rows."""

    model: nn.Module
    artifact: ModelArtifact
    accuracy: float
    size_bytes: int
    schema: Schema
    train: Split
    val: Split


_subjects: dict[str, Subject] = {}


def made(name: str, seed: int, teacher: fashion.Teacher, *, is_quick: bool) -> Row:
    """One unit of work."""
    began_s = time.perf_counter()
    if name == MILLION:
        subject, arm = _of_a_million(seed, teacher, is_quick=is_quick), _STUDENT_OF_MILLION
    else:
        subject, arm = _subject(teacher), _ARMS[name]
    artifact, accuracy, size_bytes = _student(arm, seed, subject, is_quick=is_quick)
    return Row(
        arm=name,
        seed=seed,
        before=subject.accuracy,
        accuracy=accuracy,
        before_params=subject.artifact.num_params,
        num_params=artifact.num_params,
        before_macs=subject.artifact.num_macs,
        num_macs=artifact.num_macs,
        before_bytes=subject.size_bytes,
        size_bytes=size_bytes,
        minutes=(time.perf_counter() - began_s) / 60,
    )


def _subject(teacher: fashion.Teacher) -> Subject:
    """A teacher of the example and its rows, read and judged once per process."""
    name = teacher.model.artifact.sha256
    if name not in _subjects:
        store = LocalStore(Path(teacher.store.removeprefix("file://")))
        train, val = (data.load_split(teacher.dataset, split, store=store) for split in ("train", "val"))
        _subjects[name] = _judged(teacher.model, store, teacher.dataset.schema, train, val)
    return _subjects[name]


def _of_a_million(seed: int, teacher: fashion.Teacher, *, is_quick: bool) -> Subject:
    """A larger teacher on the same rows: trained, and kept so that an interrupted run finds it."""
    given, folder = _subject(teacher), _folder(is_quick=is_quick) / f"{MILLION}-{seed}"
    store, note = LocalStore(folder), folder / "artifact.json"
    if note.exists():
        artifact = from_json(ModelArtifact, json.loads(note.read_text()), what="the larger teacher")
    else:
        fresh = models.build(_LARGE, teacher.dataset.schema, teacher.dataset.preprocessing, seed=seed)
        artifact = _compressed(Arm(recipe={"epochs": _LARGE_EPOCHS}), seed, fresh, given, store, is_quick=is_quick)
        note.write_text(json.dumps(to_json(artifact)))
    return _judged(artifact, store, given.schema, given.train, given.val)


def _judged(artifact: ModelArtifact, store: ArtifactStore, schema: Schema, train: Split, val: Split) -> Subject:
    model, onnx = models.load_model(store, artifact), load_served(store, artifact)
    accuracy = _accuracy(onnx, val)
    return Subject(model=model, artifact=artifact, accuracy=accuracy, size_bytes=len(onnx), schema=schema, train=train, val=val)


def _accuracy(onnx: bytes, val: Split) -> float:
    task = tasks.get("image_classification")
    return float(task.correct(run_batched(open_runtime(onnx), val.inputs_N), val.labels_N).mean())


def _student(arm: Arm, seed: int, subject: Subject, *, is_quick: bool) -> tuple[ModelArtifact, float, int]:
    """The artifact, the accuracy of its file, and the bytes of that."""
    with tempfile.TemporaryDirectory(dir=_folder(is_quick=is_quick)) as folder:
        store = LocalStore(Path(folder))
        artifact = _compressed(arm, seed, subject.model, subject, store, is_quick=is_quick)
        onnx = load_served(store, artifact)
    return artifact, _accuracy(onnx, subject.val), len(onnx)


def _compressed(arm: Arm, seed: int, model: nn.Module, subject: Subject, store: ArtifactStore, *, is_quick: bool) -> ModelArtifact:
    """The one call that all is about."""
    recipe = dict(arm.recipe)
    if is_quick and arm.is_trained:
        recipe |= _QUICK
    if "weight_bits" in recipe and not recipe.get("quantize.qat"):
        recipe["quantize.calibration_seed"] = seed
    if arm.macs_ratio:
        recipe["prune_ratio"] = _least_ratio(subject, arm.macs_ratio)
    rows = _rows(subject.train, arm, seed)
    return compress(
        model,
        recipe,
        rows,
        subject.model,
        None if arm.is_trained else _untrained,
        train=_TRAIN,
        options=Options(augment=_AUGMENT, views=arm.views, held_back_ratio=_HELD_BACK_RATIO, seed=seed),
        store=store,
        reporter=ConsoleReporter(clock=SystemClock()),
    )


def _least_ratio(subject: Subject, macs_ratio: float) -> float:
    """The share of channels that has to go: counts are rounded, so it is tried."""
    given = Given(schema=subject.schema)
    for percent in range(20, 95):
        _, recipe = recipe_from_params({"prune_ratio": percent / 100})
        pruned = apply_recipe(subject.model, recipe, given, family=subject.artifact.family)
        if subject.artifact.num_macs >= macs_ratio * cost(pruned, subject.schema).num_macs:
            return percent / 100
    raise AssertionError(f"no share of channels makes MACs {macs_ratio:g} times fewer")


def _untrained(work: Fitting) -> nn.Module:
    """Quantization after training: the model as it is."""
    return work.model


def _rows(train: Split, arm: Arm, seed: int) -> Split:
    """The rows that an arm may see; those without a label are of class -1."""
    order_N = permutation(len(train.labels_N), seed, len(train.labels_N))
    if arm.share < 1:
        train = _taken(train, order_N[: round(arm.share * len(order_N))])
    if arm.labels == "all":
        return train
    labelled = order_N[: round(LABELLED_RATIO * len(order_N))]
    if arm.labels == "tenth alone":
        return _taken(train, labelled)
    labels_N = train.labels_N.copy()
    labels_N[order_N[len(labelled) :]] = -1
    return Split(inputs_N=train.inputs_N, labels_N=labels_N)


def _taken(split: Split, rows: np.ndarray) -> Split:
    """Some rows, in the order of the split."""
    places = np.sort(rows)
    return Split(inputs_N=split.inputs_N[places], labels_N=split.labels_N[places])


def _folder(*, is_quick: bool) -> Path:
    folder = work_folder("compress_fashion") / ("look" if is_quick else "full")
    folder.mkdir(exist_ok=True)
    return folder


def _units(*, is_quick: bool) -> list[tuple[str, int]]:
    """(arm, seed) of all that is made, in order: what takes longest first, so that no process is left alone with it."""
    seeds = _SEEDS[:1] if is_quick else _SEEDS
    return [(MILLION, 0), *((name, seed) for name in _ARMS for seed in seeds)]


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _measured(path: Path, *, is_quick: bool) -> list[Row]:
    """All rows: those in the log, and those that are missing there."""
    log = Log.of(path, Row)
    done = {(row.arm, row.seed) for row in log.rows}
    left = [unit for unit in _units(is_quick=is_quick) if unit not in done]
    teachers = {seed: fashion.teacher(seed, is_quick=is_quick) for seed in sorted({seed % _NUM_TEACHERS for _, seed in left})}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=_one_thread) as pool:
        waiting = [pool.submit(made, name, seed, teachers[seed % _NUM_TEACHERS], is_quick=is_quick) for name, seed in left]
        for one in as_completed(waiting):
            row = one.result()
            log.add(row)
            size = f"{row.num_params:,} parameters, {row.before_macs / row.num_macs:.2f}x fewer MACs"
            print(f"{row.arm}, seed {row.seed}: {row.before:.4f} -> {row.accuracy:.4f}, {size}, {row.minutes:.1f} min", flush=True)
    return log.rows


def main(arguments: Sequence[str] = ()) -> None:
    """Make the students that are missing; write the claims where all are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one seed, few rows, no results")
    options = parser.parse_args(arguments)
    if options.quick:
        shutil.rmtree(_folder(is_quick=True))
    folder = _folder(is_quick=options.quick)
    tell(claims(_measured(folder / "rows.jsonl", is_quick=options.quick)), is_quick=options.quick)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
