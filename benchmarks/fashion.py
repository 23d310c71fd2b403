"""The Fashion-MNIST teachers that the benchmarks of compression start from: those of `benchmarks.train_fashion`, one per seed.

A teacher that was trained already (by that benchmark, or by an earlier call) is read from the store; a missing one is trained, about 13 minutes
on two cores. Seed s has its own initialization, order of rows and split into train and val; test is never opened here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.record import foundry, timed, work_folder
from foundry_ray.types import DatasetRef, Json, ModelArtifact, from_json

PIPELINE = "examples/fashion_mnist/pipeline.yaml"
_TIMEOUT_S = 3_000.0
T = TypeVar("T")


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
    command = foundry("run", PIPELINE, *scale, "--set", f"seed={seed}", "--store", store, "--until", "teacher", "--json")
    done = timed(command, env=home(), timeout_s=_TIMEOUT_S)
    assert done.code == 0, f"the teacher of seed {seed} ended with exit code {done.code}: {done.stdout[-2000:]}"
    stages: Mapping[str, Json] = {stage["name"]: stage for stage in json.loads(done.stdout)["stages"]}
    return Teacher(seed=seed, dataset=_output(stages["data"], DatasetRef), model=_output(stages["teacher"], ModelArtifact), store=store)


def _output(stage: Json, kind: type[T]) -> T:
    return from_json(kind, stage["outputs"], what=kind.__name__)  # type: ignore[index,call-overload]
