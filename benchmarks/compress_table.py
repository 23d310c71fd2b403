"""Every technique of the toolbox on every family: what it saves, what it costs in accuracy, and whether it is faster.

python -m benchmarks.compress_table           about 40 minutes on two cores, writes results
python -m benchmarks.compress_table --quick   two models, a few techniques; writes none

Models are trained by the toolbox's own loop and then compressed from Python alone, by `foundry_ray.compression.compress`: cnn, resnet and mlp on
Fashion-MNIST, transformer and rnn on mails. Accuracy is on val, which neither trained nor chose anything: of the model as it was, of the file that
would be shipped of the student before its first step, and of the one that is shipped. What the product refuses is a row with the reason. Parameters,
MACs and bytes are counted in the exported files (`compress_counts`) and held against what the cost model said of the student before its first step.
Latencies: all files of a family side by side, in alternating blocks, one thread, in onnxruntime and in OpenVINO. The package needs its extras for
texts and OpenVINO. A finished student is a line of a log, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.compress_counts import counted, weight_bytes
from benchmarks.compress_families import SEED, Setup, Technique, setups, techniques
from benchmarks.compress_rows import Row, claims
from benchmarks.record import Log, foundry, tell, timed, work_folder
from foundry_ray import data, models, tasks
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.clock import SystemClock
from foundry_ray.compression import Fitting, Options, TrainedStudent, compress, cost, fit_here, recipe_from_params, runtime_of, served, to_onnx
from foundry_ray.config import TrainConfig
from foundry_ray.data import Split
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.evaluation import Served, measure_together
from foundry_ray.evaluation.latency import can_run
from foundry_ray.inference import load_served, open_runtime, predict, run_batched
from foundry_ray.protocols import Given, RuntimeChoice
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.types import CompressionRecipe, DatasetRef, ModelArtifact, from_json, to_json

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

_BATCHES = (1, 32)
_BUDGET_S = 0.4
_OPTIONS = Options(held_back_ratio=0.02, views=1, seed=SEED, device="cpu")
_THREADS = 2
"""That answer for val, which is not timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A piece of the work by its name, and what came of it as JSON."""

    name: str
    result: Any


def done(log: Log[Done], name: str, make: Callable[[], Any]) -> Any:
    """Read, or made and written down."""
    found = next((one for one in log.rows if one.name == name), None)
    if found is None:
        found = Done(name=name, result=make())
        log.add(found)
    return found.result


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One model's: its rows, and where what is made of it lies."""

    setup: Setup
    dataset: DatasetRef
    train: Split
    val: Split
    store: LocalStore

    @classmethod
    def of(cls, setup: Setup, store: LocalStore) -> Work:
        """With its rows read."""
        dataset = setup.rows.prepared(store, work_folder("fashion"))
        train, val = (data.load_split(dataset, name, store=store) for name in ("train", "val"))
        return cls(setup=setup, dataset=dataset, train=train, val=val, store=store)

    def given(self, num_rows: int) -> Given:
        """The first rows of the training split."""
        train = Split(inputs_N=self.train.inputs_N[:num_rows], labels_N=self.train.labels_N[:num_rows])
        return Given(schema=self.dataset.schema, task=self.dataset.task, inputs_N=train.inputs_N, labels_N=train.labels_N)

    def accuracy(self, logits_NC: np.ndarray) -> float:
        """On val."""
        return float(tasks.get(self.dataset.task).correct(logits_NC, self.val.labels_N).mean())

    def trained(self) -> ModelArtifact:
        """The model that everything is done to."""
        model = models.build(self.setup.model, self.dataset.schema, self.dataset.preprocessing, seed=SEED)
        return self._compressed(model, CompressionRecipe(), fit_here, self.setup.train, self.setup.rows.train)

    def row(self, technique: Technique, base: ModelArtifact) -> tuple[Row, ModelArtifact | None]:
        """A technique carried out, or why it is not."""
        began_s = time.monotonic()
        row = Row(family=self.setup.family, size=self.setup.size, technique=technique.name)
        try:
            recipe = recipe_from_params(technique.asks)[1]
            seen = _Seen(work=self, recipe=recipe, is_trained=technique.is_trained)
            artifact = self._compressed(models.load_model(self.store, base), recipe, seen.fit, self.setup.short, self.setup.rows.short)
        except RecipeInfeasible as error:
            return replace(row, refused=error.message), None
        accuracy = {
            "before": self.accuracy(predict(self.store, base, self.val.inputs_N, threads=_THREADS)),
            "at_once": seen.accuracy,
            "after": self.accuracy(predict(self.store, artifact, self.val.inputs_N, threads=_THREADS)),
        }
        seconds = time.monotonic() - began_s
        made = replace(row, measured=self._measured(artifact), predicted=seen.predicted, accuracy=accuracy, notes=artifact.notes, seconds=seconds)
        return made, artifact

    def _compressed(
        self, model: nn.Module, recipe: CompressionRecipe, fit: Callable[[Fitting], TrainedStudent], train: TrainConfig, num_rows: int
    ) -> ModelArtifact:
        reporter = RecordingReporter()
        return compress(model, recipe, self.given(num_rows), fit=fit, train=train, options=_OPTIONS, store=self.store, reporter=reporter)

    def _measured(self, artifact: ModelArtifact) -> dict[str, int]:
        onnx = load_served(self.store, artifact)
        exported = counted(to_onnx(models.load_model(self.store, artifact), self.dataset.schema))
        return {"num_params": exported.num_params, "num_macs": exported.num_macs, "size_bytes": len(onnx), "weight_bytes": weight_bytes(onnx)}


@dataclass(kw_only=True)
class _Seen:
    """The student before its first step: what it costs, and what the file that would be shipped of it answers. Then it is trained, if it is to be."""

    work: Work
    recipe: CompressionRecipe
    is_trained: bool
    predicted: dict[str, int] = field(default_factory=dict)
    accuracy: float = 0.0

    def fit(self, fitting: Fitting) -> TrainedStudent:
        schema, student = self.work.dataset.schema, copy.deepcopy(fitting.model).eval()
        calibration_N = fitting.job.split_train.inputs_N[: _OPTIONS.calibration_rows].numpy()
        onnx = served(student, self.recipe, schema, calibration_N)
        self.predicted = {**cost(student, schema)._asdict(), "size_bytes": len(onnx)}
        choice = runtime_of(self.recipe)
        runtime = open_runtime(onnx, threads=_THREADS, runtime=choice.name, precision=choice.precision)
        self.accuracy = self.work.accuracy(run_batched(runtime, self.work.val.inputs_N))
        return fit_here(fitting) if self.is_trained else TrainedStudent(model=fitting.model.eval())


def latencies(store: LocalStore, artifacts: Mapping[str, ModelArtifact]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Of all files together: technique -> runtime -> batch -> (p50, p95) in ms. A runtime that lacks an operator of a file has no entry."""
    files = [(name, Served(onnx=onnx, runtime=choice)) for name, one in artifacts.items() for onnx, choice in _choices(store, one)]
    found: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in artifacts}
    for batch in _BATCHES:
        results = measure_together([file for _, file in files], batch_size=batch, budget_s=_BUDGET_S, clock=SystemClock())
        for (name, file), result in zip(files, results, strict=True):
            found[name].setdefault(file.runtime.name, {})[str(batch)] = [result.p50_ms, result.p95_ms]
    return found


def _choices(store: LocalStore, artifact: ModelArtifact) -> list[tuple[bytes, RuntimeChoice]]:
    """The runtimes that a file is timed in: the one that its recipe names, else all that take it."""
    onnx, named = load_served(store, artifact), artifact.recipe.step("runtime")
    choices = [runtime_of(artifact.recipe)] if named else [RuntimeChoice(name=name) for name in ("onnxruntime", "openvino")]
    return [(onnx, replace(choice, threads=1)) for choice in choices if can_run(onnx, choice)]


def rows_of(setup: Setup, log: Log[Done], folder: Path, *, is_quick: bool) -> list[Row]:
    """All rows of one model."""
    work = Work.of(setup, LocalStore(folder / "store"))
    base = from_json(ModelArtifact, done(log, setup.name, lambda: to_json(work.trained())), what=setup.name)
    made = {one.name: _made(log, work, one, base) for one in techniques(setup, is_quick=is_quick)}
    artifacts = {technique: artifact for technique, (_, artifact) in made.items() if artifact is not None}
    times = done(log, f"{setup.name} latencies", lambda: latencies(work.store, artifacts)) if setup.size == "large" else {}
    return [replace(row, latencies=times.get(technique, {})) for technique, (row, _) in made.items()]


def _made(log: Log[Done], work: Work, technique: Technique, base: ModelArtifact) -> tuple[Row, ModelArtifact | None]:
    name = f"{work.setup.name}: {technique.name}"

    def _make() -> dict[str, Any]:
        row, artifact = work.row(technique, base)
        told = f"refused, {row.refused}" if row.refused else f"{row.accuracy['after']:.4f}, {row.measured['size_bytes']:,} bytes, {row.seconds:.0f} s"
        print(f"{name}: {told}", flush=True)
        return {"row": asdict(row), "artifact": to_json(artifact)}

    result = done(log, name, _make)
    return Row(**result["row"]), from_json(ModelArtifact, result["artifact"], what=name) if result["artifact"] else None


def main(arguments: Sequence[str] = ()) -> None:
    """Do what is missing; write the claims where all is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two models and a few techniques, no results")
    options = parser.parse_args(arguments)
    folder = work_folder("compress_table") / ("look" if options.quick else "run")
    if options.quick:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("fashion_mnist", "spam_assassin"):
        assert timed(foundry("data", "fetch", name), env={"FOUNDRY_HOME": str(work_folder("fashion"))}).code == 0, f"{name} could not be fetched"
    log = Log.of(folder / "done.jsonl", Done)
    rows = [row for setup in setups(is_quick=options.quick) for row in rows_of(setup, log, folder, is_quick=options.quick)]
    tell(claims(rows), is_quick=options.quick)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
