"""The Fashion-MNIST teachers that the benchmarks of compression start from: those of `benchmarks.train_fashion`, one per seed.

A teacher that was trained already (by that benchmark, or by an earlier call) is read from the store; a missing one is trained, about 13 minutes
on two cores. Seed s has its own initialization, order of rows and split into train and val; test is never opened here.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.record import foundry, timed, work_folder
from benchmarks.stages import Stages
from foundry_ray.types import DatasetRef, ModelArtifact

PIPELINE = "examples/fashion_mnist/pipeline.yaml"
_TIMEOUT_S = 3_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A trained teacher, the rows it saw, and the store that holds both."""

    seed: int
    dataset: DatasetRef
    model: ModelArtifact
    store: str


def store_uri(*, is_quick: bool = False) -> str:
    """Where the teachers lie; those of the smoke scale lie apart."""
    return f"file://{work_folder('train_fashion') / ('look' if is_quick else 'store')}"


def home() -> dict[str, str]:
    """The environment in which the data set is found; fetches it at first."""
    variables = {"FOUNDRY_HOME": str(work_folder("fashion"))}
    assert timed(foundry("data", "fetch", "fashion_mnist"), env=variables).code == 0, "Fashion-MNIST could not be fetched"
    return variables


def teacher(seed: int, *, is_quick: bool = False) -> Teacher:
    """The teacher of `seed`: read where it is there, trained where not. `is_quick`: the smoke scale."""
    store = store_uri(is_quick=is_quick)
    scale = ("--scale", "smoke") if is_quick else ()
    arguments = (PIPELINE, *scale, "--set", f"seed={seed}", "--store", store, "--until", "teacher")
    stages = Stages.run(*arguments, env=home(), timeout_s=_TIMEOUT_S)
    return Teacher(seed=seed, dataset=stages.output("data", DatasetRef), model=stages.output("teacher", ModelArtifact), store=store)
