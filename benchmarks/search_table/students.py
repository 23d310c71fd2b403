"""Real trials of students on Fashion-MNIST: the data, a teacher that is trained once, and what the trials of a study share.

The data and the teacher are the shipped example's, but for fewer images; students are trained as the product does by default. All of it lies in a
store of its own, so that it is made once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.record import ROOT, foundry, timed, work_folder
from benchmarks.search_table import driving
from foundry_ray.artifacts import open_store
from foundry_ray.clock import SystemClock
from foundry_ray.config import LatencyConfig, Settings, StudentConfig, load_config
from foundry_ray.protocols import ArtifactStore, Clock, Reporter
from foundry_ray.types import DatasetRef, Json, ModelArtifact, SearchSpace, from_json

if TYPE_CHECKING:
    from foundry_ray.evaluation.quiet import QuietGate
    from foundry_ray.search.trial import TrialContext, TrialRunner

PIPELINE = ROOT / "examples" / "fashion_mnist" / "pipeline.yaml"
NUM_TRAIN, NUM_VAL = 6_000, 4_000
STUDENT = StudentConfig(target_views=4)  # with flips alone an image has two variants
LATENCY = LatencyConfig()
_TEACHER_TIMEOUT_S = 1_800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Students:
    """Where the trials find what they need. Goes through pickle and JSON."""

    dataset: DatasetRef
    teacher: ModelArtifact
    store_uri: str
    home: str

    @property
    def settings(self) -> Settings:
        """Of the benchmark's own FOUNDRY_HOME."""
        return Settings(home=Path(self.home))

    def open_store(self) -> ArtifactStore:
        """The store of data, teacher and latencies."""
        return open_store(self.store_uri, settings=self.settings)


def prepared(folder: Path, *, reporter: Reporter) -> Students:
    """Data, teacher and the teacher's logits, made where they are not.

    Args:
        folder: Where the store is.
        reporter: Told how far the logits are.
    """
    home, uri = work_folder("fashion"), f"file://{folder}/store"
    env = {"FOUNDRY_HOME": str(home)}
    assert timed(foundry("data", "fetch", "fashion_mnist"), env=env).code == 0, "Fashion-MNIST could not be fetched"
    split = [word for name, rows in (("train", NUM_TRAIN), ("val", NUM_VAL)) for word in ("--set", f"data.split.{name}={rows}")]
    settings = (*split, "--set", "teacher.workers=1")  # in the process itself, without Ray
    command = foundry("run", str(PIPELINE.relative_to(ROOT)), *settings, "--store", uri, "--until", "teacher", "--json")
    done = timed(command, env=env, timeout_s=_TEACHER_TIMEOUT_S)
    assert done.code == 0, f"the teacher ended with exit code {done.code}: {done.stdout[-2000:]}"
    stages: dict[str, Json] = {stage["name"]: stage["outputs"] for stage in json.loads(done.stdout)["stages"]}
    dataset, teacher = (from_json(kind, stages[name], what=name) for kind, name in ((DatasetRef, "data"), (ModelArtifact, "teacher")))
    assert isinstance(dataset, DatasetRef)
    assert isinstance(teacher, ModelArtifact)
    students = Students(dataset=dataset, teacher=teacher, store_uri=uri, home=str(home))
    shared_context(students, reporter=reporter)
    return students


def shared_context(students: Students, *, reporter: Reporter) -> TrialContext:
    """What the trials of one study share, as the product gives it to them; nothing is a limit, and nobody compares with the teacher."""
    from foundry_ray.search import environment
    from foundry_ray.search.targets import TargetSpec, teacher_logits, trial_seed

    config, store = load_config(PIPELINE), students.open_store()
    context = environment.StudyContext(
        search=config.search,
        student=STUDENT,
        task=config.task,
        augment=config.data.augment,
        seed=config.seed,
        dataset=students.dataset,
        teacher=students.teacher,
        store=store,
        settings=students.settings,
    )
    spec = TargetSpec(
        dataset=students.dataset,
        teacher=students.teacher,
        augment=context.augment,
        views=STUDENT.target_views,
        seed=trial_seed(config.seed),
    )
    logits_VNC = teacher_logits(spec, store=store, reporter=reporter)
    return environment.shared_context(context, SearchSpace(params=()), logits_VNC, prefix=f"studies/{driving.STUDY}/trials")


def runner(students: Students, context: TrialContext, *, reporter: Reporter) -> TrialRunner:
    """The product's own, with the real latency meter; it pauses while another process measures."""
    from foundry_ray.evaluation.quiet import QuietGate
    from foundry_ray.search.environment import local_meter
    from foundry_ray.search.trial import TrialRunner

    clock, gate, store = SystemClock(), QuietGate(home=students.settings.home), students.open_store()
    meter = local_meter(store, LATENCY, settings=students.settings, clock=clock)
    return TrialRunner(context, store=store, meter=meter, clock=clock, reporter=reporter, between_steps=lambda: _pause(gate, clock))


def _pause(gate: QuietGate, clock: Clock) -> None:
    gate.wait(clock)
