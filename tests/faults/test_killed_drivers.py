"""kill -9 of the driver in the teacher, in the search and in the student stage; two drivers at once; an orderly stop.

Compared with the unbroken run: a finished stage is not done again, a finished trial neither, nothing is lost and nothing doubled.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from foundry_ray.artifacts import open_store
from foundry_ray.config import Settings
from foundry_ray.protocols import ArtifactStore
from foundry_ray.runlog import list_runs, load_run
from foundry_ray.testing.commands import Commands, Outcome
from foundry_ray.types import RunRecord, StageStatus

TINY = (
    "data.split={train: 1024, val: 200, test: 200}",
    "teacher.model={width: 8, depth: 1}",
    "teacher.train.epochs=8",
    "search.budget.trials=6",
    "search.scheduler.rungs=[1, 2, 4]",
    "search.constraints=[]",
    "search.choose=knee",
    "student.epochs=12",
    "gates={accuracy_drop_points: 100}",
    "serve.enabled=false",
)


@dataclass(frozen=True)
class User:
    commands: Commands
    store: ArtifactStore

    @property
    def arguments(self) -> list[str]:
        return ["run", "pipeline.yaml", *(part for one in (*TINY, f"store={self.store.uri}") for part in ("--set", one)), "--keep", "--json"]

    def records(self) -> list[RunRecord]:
        return [load_run(self.store, run_id) for run_id in list_runs(self.store)]

    def running(self, stage: str) -> bool:
        found = [record.stage(stage) for record in self.records()]
        return any(one is not None and one.status is StageStatus.RUNNING for one in found)

    def num_objects(self, prefix: str) -> int:
        return sum(1 for _ in self.store.list(prefix))


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    commands = Commands(home=tmp_path / "home", folder=tmp_path)
    assert commands.run("init", ".").code == 0
    assert commands.run("data", "fetch", "mnist_5k").code == 0
    store = open_store(f"file://{tmp_path}/store", settings=Settings(home=tmp_path / "home"))
    yield User(commands, store)
    commands.stop_services()


def _wait(condition: Callable[[], bool], process: subprocess.Popen[str], *, what: str, timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"the run ended before {what}"
        assert time.monotonic() < deadline, f"no {what} within {timeout_s} s"
        time.sleep(0.02)


def _kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def _finish(user: User) -> dict[str, dict[str, object]]:
    outcome: Outcome = user.commands.run(*user.arguments, timeout_s=400)
    assert outcome.code == 0, outcome.stderr[-3000:]
    return {stage["name"]: stage for stage in json.loads(outcome.stdout)["stages"]}


def _trials(stages: dict[str, dict[str, object]]) -> list[dict[str, object]]:
    return sorted(stages["search"]["outputs"]["trials"], key=lambda trial: trial["number"])


@pytest.mark.timeout(900)
def test_a_run_killed_in_three_stages_finishes_without_redoing_what_was_done(user: User, moment: float) -> None:
    pause = random.Random(f"moments {moment}")

    teacher = user.commands.start(*user.arguments)
    _wait(lambda: user.num_objects("checkpoints/") > 3 + 20 * moment, teacher, what="checkpoint of the teacher")
    _kill(teacher)

    search = user.commands.start(*user.arguments)
    _wait(lambda: user.running("search"), search, what="search")
    assert not any(record.stage("teacher").status is StageStatus.RUNNING for record in user.records()[-1:])
    _wait(lambda: user.num_objects("studies/") > 6 + 30 * moment, search, what="journal of the study")
    time.sleep(pause.uniform(0, 1))
    _kill(search)
    before = {info.key: user.store.get(info.key) for info in user.store.list("studies/") if "/journal/" in info.key}

    student = user.commands.start(*user.arguments)
    _wait(lambda: user.running("student"), student, what="student")
    time.sleep(pause.uniform(0.5, 4) * moment)
    _kill(student)

    stages = _finish(user)
    assert {name: stages[name]["status"] for name in ("data", "teacher", "search")} == dict.fromkeys(("data", "teacher", "search"), "reused")
    numbers = [trial["number"] for trial in _trials(stages)]
    assert numbers == list(range(6))
    assert all(user.store.get(key) == data for key, data in before.items()), "the journal was rewritten"
    assert len(stages["teacher"]["outputs"]["curve"]) == 8


@pytest.mark.timeout(900)
def test_two_runs_at_once_train_once(user: User) -> None:
    both = [user.commands.start(*user.arguments) for _ in range(2)]
    assert [process.wait(timeout=600) for process in both] == [0, 0]
    done = [stage for record in user.records() for stage in record.stages if stage.status is StageStatus.DONE]
    assert sorted(stage.name for stage in done) == ["data", "evaluation", "registry", "search", "student", "teacher"]
    reused = [stage.name for record in user.records() for stage in record.stages if stage.status is StageStatus.REUSED]
    assert len(reused) == 6


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_resume_and_does(user: User, number: signal.Signals) -> None:
    process = user.commands.start(*user.arguments)
    _wait(lambda: user.num_objects("checkpoints/") > 3, process, what="checkpoint of the teacher")
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    run_id = user.records()[-1].run_id
    log = next(user.commands.folder.glob("started-*.log")).read_text()
    assert f"foundry resume {run_id}" in log
    assert "Traceback" not in log
    outcome = user.commands.run("resume", run_id, "--store", user.store.uri, "--json", timeout_s=400)
    assert outcome.code == 0, outcome.stderr[-3000:]
    assert json.loads(outcome.stdout)["run_id"] == run_id
