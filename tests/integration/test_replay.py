"""A whole small pipeline, and its version made again: on a real Ray, two DeepSpeed workers, a student that went on from a rung."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foundry_ray import pipeline, registry
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.clock import SystemClock
from foundry_ray.config import PipelineConfig, Settings, StoreConfig, validate
from foundry_ray.context import Context
from foundry_ray.errors import FingerprintMismatch
from foundry_ray.observability import ConsoleReporter
from foundry_ray.replay import Outcome, Replay, Verdict, replay

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # Ray warns about its own defaults
]
LOG = "test_openings/"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that differ in brightness, 100 images each."""
    image = pytest.importorskip("PIL.Image")
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(200):
        path = folder / ("dark" if number % 2 else "light") / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        image.fromarray(random.integers(0, 160, (12, 12), dtype=np.uint8) + np.uint8(0 if number % 2 else 60)).save(path)
    return folder


def _config(images: Path) -> PipelineConfig:
    space = images.parent / "space.yaml"
    space.write_text(
        "params: {lr: {float: [0.001, 0.01]}, width: {int: [4, 6]}, depth: {int: [1, 1]}, distil_alpha: {float: [0.1, 0.9]},"
        " weight_bits: {choice: [8]}}"
    )
    document = {
        "name": "squares",
        "data": {"source": str(images), "split": {"train": 96, "val": 40, "test": 60}, "augment": ["shift"]},
        "teacher": {"model": {"width": 8, "depth": 1}, "train": {"epochs": 2, "batch_size": 16}, "workers": 2},
        "search": {"space": str(space), "scheduler": {"rungs": [1, 2]}, "budget": {"trials": 2}, "choose": "best under 50 ms and 1 MB"},
        "student": {"epochs": 4, "batch_size": 16, "target_views": 2, "calibration_rows": 32},
        "gates": {"accuracy_drop_points": 100, "latency_ratio": 100},
    }
    return validate(PipelineConfig, document, where="the test")


@pytest.fixture(scope="module")
def context(images: Path, ray_session: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    """A store with one registered version."""
    folder = tmp_path_factory.mktemp("user")
    surroundings = Context(
        settings=Settings(home=folder / "home"),
        clock=SystemClock(),
        reporter=ConsoleReporter(clock=SystemClock(), quiet=True),
        store_config=StoreConfig(uri=(folder / "store").as_uri()),
    )
    with surroundings as opened:
        pipeline.run(_config(images), context=opened)
        yield opened


def _objects(context: Context) -> dict[str, bytes]:
    return {info.key: context.store.get(info.key) for info in context.store.list("")}


def _outcomes(found: Replay) -> dict[str, Outcome]:
    return {point.name: point.outcome for point in found.points if point.kind == "bytes"}


def test_a_version_made_again_from_nothing_has_the_same_bytes(context: Context) -> None:
    before = _objects(context)
    found = replay("squares@champion", context=context, keep=True)
    assert found.verdict is Verdict.IDENTICAL
    assert set(_outcomes(found).values()) == {Outcome.EQUAL}
    assert found.made == ("data", "teacher", "student", "evaluation")
    assert found.folder is not None
    second = LocalStore(Path(found.folder) / "store")
    assert not list(second.list("studies/")), "the search was done again"
    assert {key: data for key, data in _objects(context).items() if not key.startswith(LOG)} == {
        key: data for key, data in before.items() if not key.startswith(LOG)
    }


def test_a_student_alone_reuses_teacher_and_data_and_counts_its_opening_of_test(context: Context) -> None:
    openings = [key for key in _objects(context) if key.startswith(LOG)]
    folders = set((context.settings.home / "replays").glob("*"))
    found = replay("squares:1", context=context, only="student")
    assert found.verdict is Verdict.IDENTICAL
    outcomes = _outcomes(found)
    assert (outcomes["teacher weights"], outcomes["data fingerprint"]) == (Outcome.REUSED, Outcome.REUSED)
    assert (outcomes["student weights"], outcomes["model.onnx"]) == (Outcome.EQUAL, Outcome.EQUAL)
    assert found.num_test_openings == len(openings) + 1 == len([key for key in _objects(context) if key.startswith(LOG)])
    assert found.folder is None
    assert set((context.settings.home / "replays").glob("*")) == folders, "the second making was left behind"


def test_another_trial_in_the_lineage_is_different_and_says_where(context: Context) -> None:
    entry = registry.resolve(context.store, "squares:1")
    assert entry.lineage is not None
    trial = entry.lineage.trial
    wider = replace(trial, params={**trial.params, "width": 7})
    names = {"report_key": entry.report, "passed": True, "run_id": entry.run_id}
    registry.register(context.store, name="forged", model=entry.model, clock=SystemClock(), lineage=replace(entry.lineage, trial=wider), **names)
    found = replay("forged:1", context=context, only="student")
    assert found.verdict is Verdict.DIFFERENT
    different = {point.name for point in found.points if point.outcome is Outcome.DIFFERENT}
    assert {"student weights", "model.onnx", "student num_params", "student num_macs"} <= different
    assert not {"data fingerprint", "teacher weights", "teacher num_params"} & different


def test_other_data_under_the_same_name_is_refused_with_both_fingerprints(context: Context, images: Path) -> None:
    first = next((images / "dark").iterdir())
    data = first.read_bytes()
    first.write_bytes(next((images / "light").iterdir()).read_bytes())
    try:
        with pytest.raises(FingerprintMismatch, match=r"gives the data set [0-9a-f]{12} now, but squares:1 was made of [0-9a-f]{12}") as caught:
            replay("squares:1", context=context)
    finally:
        first.write_bytes(data)
    assert caught.value.expected != caught.value.actual
    assert "--only student" in caught.value.hint
