"""A teacher alone, trained by one worker: no Ray is started for it, what it measures is tracked, and the run goes on later."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from foundry_ray.testing.commands import Commands, Outcome

SETTINGS = (
    "data={source: ./images, split: {train: 48, val: 8, test: 8}}",
    "teacher={model: {family: cnn, width: 4, depth: 1}, workers: 1, train: {batch_size: 8, epochs: 2}, deepspeed: {zero_stage: 3}}",
)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    folder = tmp_path_factory.mktemp("user")
    commands = Commands(home=folder / "home", folder=folder, env={"FOUNDRY_STORE": f"file://{folder}/store"})
    assert commands.run("init", ".").code == 0
    _images(folder / "images")
    yield commands
    commands.stop_services()


def _images(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for number in range(64):
        path = folder / f"class{number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(random.integers(100 * (number % 2), 150 + 100 * (number % 2), (8, 8), dtype=np.uint8)).save(path)


def _run(commands: Commands) -> Outcome:
    overrides = [part for one in (*SETTINGS, f"store={commands.env['FOUNDRY_STORE']}") for part in ("--set", one)]
    outcome = commands.run("run", "pipeline.yaml", *overrides, "--until", "teacher", "--json")
    assert outcome.code == 0, outcome.stderr
    return outcome


@pytest.fixture(scope="module")
def first(commands: Commands) -> Outcome:
    return _run(commands)


def _statuses(outcome: Outcome) -> dict[str, str]:
    return {stage["name"]: stage["status"] for stage in outcome.document["stages"]}


def test_a_run_until_the_teacher_is_done_and_the_other_stages_are_pending(first: Outcome) -> None:
    later = dict.fromkeys(("search", "student", "evaluation", "registry", "serving"), "pending")
    assert first.document["status"] == "done"
    assert _statuses(first) == {"data": "done", "teacher": "done", **later}


def test_one_worker_trains_without_ray_and_says_what_it_ignores(commands: Commands, first: Outcome) -> None:
    assert sorted(path.name for path in commands.home.iterdir()) == ["events", "in-use.lock", "tensorboard"]
    assert any("teacher.deepspeed.zero_stage is ignored" in warning for warning in first.document["warnings"])


def test_its_metrics_are_tensorboard_event_files(commands: Commands, first: Outcome) -> None:
    key = next(stage["key"] for stage in first.document["stages"] if stage["name"] == "teacher")
    assert list((commands.home / "tensorboard").glob(f"{key[:12]}-mnist/**/events.out.tfevents.*"))


def test_a_second_run_reuses_the_teacher_and_a_report_shows_the_stages(commands: Commands, first: Outcome) -> None:
    statuses = _statuses(_run(commands))
    assert (statuses["data"], statuses["teacher"], statuses["search"]) == ("reused", "reused", "pending")
    assert commands.run("report", "latest", "-o", "report.html").code == 0
    assert "pending" in (commands.folder / "report.html").read_text()
