"""kill -9 of the driver in the teacher, in the search and in the student stage, of a trial and of the head; two drivers at once; an orderly stop.

Compared with an unbroken run, and with what lay in the store before each blow: a finished stage is not done again, a finished trial
neither, training goes on at the epoch after the last checkpoint, nothing is lost and nothing doubled.
"""

import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from foundry_ray.artifacts import open_store
from foundry_ray.config import Settings
from foundry_ray.protocols import ArtifactStore
from foundry_ray.runlog import list_runs, load_run
from foundry_ray.runtime import local_head
from foundry_ray.testing.commands import Commands
from foundry_ray.training import checkpoint as checkpoints
from foundry_ray.training.rank import curve_of
from foundry_ray.types import RunRecord, StageStatus

TEACHER_EPOCHS = 8
STUDENT_EPOCHS = 24
TRIALS = 6
RUNGS = (1, 2, 4)
TINY = (
    "data.split={train: 1024, val: 200, test: 200}",
    "teacher.model={width: 8, depth: 1}",
    f"teacher.train.epochs={TEACHER_EPOCHS}",
    f"search.budget.trials={TRIALS}",
    f"search.scheduler.rungs={list(RUNGS)}",
    "search.space=./space.yaml",
    "search.constraints=[]",
    "search.choose=knee",
    f"student.epochs={STUDENT_EPOCHS}",
    "gates={accuracy_drop_points: 100}",
    "serve.enabled=false",
)
SPACE = """
params:
  lr: {float: [1.0e-3, 1.0e-2], log: true}
  width: {int: [4, 8], step: 2}
  depth: {choice: [1]}
  weight_bits: {choice: [8, 32]}
  distil_alpha: {float: [0.3, 0.9]}
  distil_temperature: {float: [1.0, 8.0]}
"""
Curve = list[Mapping[str, float]]
Stages = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class User:
    """Somebody with one home and one store, who runs one pipeline and looks into the store meanwhile."""

    commands: Commands
    store: ArtifactStore

    @property
    def arguments(self) -> list[str]:
        settings = [part for one in TINY for part in ("--set", one)]
        return ["run", "pipeline.yaml", *settings, "--store", self.store.uri, "--keep", "--json"]

    def start(self) -> subprocess.Popen[str]:
        return self.commands.start(*self.arguments)

    def finish(self, *arguments: str) -> Stages:
        outcome = self.commands.run(*(arguments or self.arguments), timeout_s=400)
        assert outcome.code == 0, outcome.stderr[-3000:]
        return {stage["name"]: stage for stage in json.loads(outcome.stdout)["stages"]}

    def records(self) -> list[RunRecord]:
        return [load_run(self.store, run_id) for run_id in list_runs(self.store)]

    def key(self, stage: str) -> str:
        """The stage's key once a run came to it, else an empty text."""
        found = [record.stage(stage) for record in self.records()]
        return next((one.key for one in found if one is not None), "")

    def teacher_curve(self) -> Curve:
        """What the last checkpoint of the teacher holds."""
        key = self.key("teacher")
        return curve_of(checkpoints.latest(self.store, key)) if key else []

    def student_curve(self) -> Curve:
        """What the last checkpoint of the student holds."""
        key = self.key("student")
        found = sorted(info.key for info in self.store.list(f"checkpoints/{key}/")) if key else []
        return _curve_of_bytes(self.store.get(found[-1])) if found else []

    def journal(self) -> list[dict[str, Any]]:
        """All events of the study, in order."""
        segments = [info.key for info in self.store.list("studies/") if "/journal/" in info.key]
        return [event for key in sorted(segments) for event in json.loads(self.store.get(key))["events"]]


def _curve_of_bytes(data: bytes) -> Curve:
    """From the header of a safetensors file: its length in eight bytes, and then JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    curve = json.loads(header["__metadata__"]["document"])["curve"]
    return [{"epoch": float(epoch), **metrics} for epoch, metrics in enumerate(curve, 1)]


def _user(folder: Path) -> User:
    commands = Commands(home=folder / "home", folder=folder)
    assert commands.run("init", ".").code == 0
    (folder / "space.yaml").write_text(SPACE)
    commands.fetch("mnist_5k")
    return User(commands, open_store(f"file://{folder}/store", settings=Settings(home=folder / "home")))


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    user = _user(tmp_path)
    yield user
    user.commands.stop_services()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """A user who started the same pipeline twice at once, and let both finish unbroken."""
    user = _user(tmp_path_factory.mktemp("pair"))
    both = [user.start() for _ in range(2)]
    try:
        codes = [process.wait(timeout=600) for process in both]
        assert codes == [0, 0], user.commands.log.read_text()[-3000:]
        yield user
    finally:
        for process in both:
            process.kill()
            process.wait(timeout=30)
        user.commands.stop_services()


def _wait(condition: Callable[[], bool], process: subprocess.Popen[str], user: User, *, what: str, timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"the run ended before {what}: {user.commands.log.read_text()[-2000:]}"
        assert time.monotonic() < deadline, f"no {what} within {timeout_s} s"
        time.sleep(0.02)


def _kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def _learnt(curve: Curve) -> Curve:
    """A curve without what a clock measured."""
    return [{name: value for name, value in point.items() if name in ("loss", "val_loss", "accuracy", "lr")} for point in curve]


def _of_rungs(events: list[dict[str, Any]]) -> Counter[tuple[int, int]]:
    return Counter((event["number"], event.get("rung", 0)) for event in events if event["kind"] == "rung")


@pytest.mark.timeout(900)
def test_a_run_killed_in_three_stages_goes_on_where_it_was(user: User, pair: User, moment: float) -> None:
    pause = random.Random(f"moments {moment}")

    process = user.start()
    _wait(lambda: len(user.teacher_curve()) >= 1 + int(moment * (TEACHER_EPOCHS - 2)), process, user, what="checkpoint of the teacher")
    _kill(process)
    teacher = user.teacher_curve()

    process = user.start()
    _wait(lambda: sum(_of_rungs(user.journal()).values()) >= 1 + int(moment * TRIALS), process, user, what="trial at a rung")
    time.sleep(pause.uniform(0, 1))
    _kill(process)
    events = user.journal()

    process = user.start()
    _wait(lambda: len(user.student_curve()) >= RUNGS[-1] + 1 + int(moment * 12), process, user, what="checkpoint of the student")
    _kill(process)
    student = user.student_curve()

    stages = user.finish()
    assert [stages[name]["status"] for name in ("data", "teacher", "search", "student")] == ["reused", "reused", "reused", "done"]
    _went_on(stages["teacher"]["outputs"]["curve"], teacher, TEACHER_EPOCHS)
    _went_on(stages["student"]["outputs"]["curve"], student, STUDENT_EPOCHS)
    assert _learnt(stages["teacher"]["outputs"]["curve"]) == _learnt(_outputs(pair, "teacher")["curve"]), "the unbroken run learnt something else"
    _kept_trials(user, events, stages["search"]["outputs"]["trials"])


def _went_on(curve: Curve, before: Curve, epochs: int) -> None:
    """The epochs of before are still those of before, down to the seconds they took: not one was trained again."""
    assert 0 < len(before) < epochs
    assert curve[: len(before)] == before
    assert [point["epoch"] for point in curve if "epoch" in point] in ([], [float(epoch + 1) for epoch in range(epochs)])
    assert len(curve) == epochs


def _kept_trials(user: User, before: list[dict[str, Any]], trials: list[dict[str, Any]]) -> None:
    """What the journal said before is a beginning of what it says now, and is what the result says."""
    now = user.journal()
    assert now[: len(before)] == before, "the journal was rewritten"
    assert [event["number"] for event in now if event["kind"] == "ask"] == list(range(TRIALS)), "a trial was asked for twice"
    assert set(_of_rungs(now).values()) == {1}, "a trial reached a rung twice"
    result = {trial["number"]: trial for trial in trials}
    assert sorted(result) == list(range(TRIALS))
    reached = [event for event in before if event["kind"] == "rung"]
    assert reached, "the run was killed before any trial had reached a rung"
    for event in reached:
        trial = result[event["number"]]
        done = sum(len(earlier["curve"]) for earlier in before if earlier["kind"] == "rung" and earlier["number"] == event["number"])
        assert trial["curve"][:done] == [point for one in reached if one["number"] == event["number"] for point in one["curve"]]
        if event.get("rung", 0) == len(RUNGS) - 1:
            assert trial["values"].items() >= event["values"].items()


def _outputs(user: User, stage: str) -> dict[str, Any]:
    found = [record.stage(stage) for record in user.records()]
    return next(dict(one.outputs) for one in found if one is not None and isinstance(one.outputs, dict))


@pytest.mark.timeout(900)
def test_two_runs_at_once_train_once(pair: User) -> None:
    done = [stage for record in pair.records() for stage in record.stages if stage.status is StageStatus.DONE]
    assert sorted(stage.name for stage in done) == ["data", "evaluation", "registry", "search", "student", "teacher"]
    reused = [stage.name for record in pair.records() for stage in record.stages if stage.status is StageStatus.REUSED]
    assert sorted(reused) == sorted(stage.name for stage in done)
    assert [event["number"] for event in pair.journal() if event["kind"] == "ask"] == list(range(TRIALS))
    assert [event["kind"] for event in pair.journal()].count("open") == 1
    assert len(list(pair.store.list("registry/"))) == len({info.key for info in pair.store.list("registry/")})


@pytest.mark.timeout(900)
def test_a_trial_and_then_the_head_are_killed_and_no_trial_is_lost(user: User) -> None:
    """With the real meter and two workers at once."""
    process = user.start()
    _wait(lambda: len(_processes(user, "ray::Worker.next")) == 2, process, user, what="two trials at once")
    _processes(user, "ray::Worker.next")[0].kill()
    _wait(lambda: any(event["kind"] == "died" for event in user.journal()), process, user, what="death of a trial")
    _wait(lambda: bool(_of_rungs(user.journal())), process, user, what="trial at a rung")
    before = len(user.commands.log.read_text())
    for one in [*_processes(user, "gcs_server"), *_processes(user, "raylet")]:
        one.kill()
    assert process.wait(timeout=180) == 4, user.commands.log.read_text()[-3000:]
    printed = user.commands.log.read_text()[before:]
    assert "Traceback" not in printed
    assert "`foundry resume" in printed
    events = user.journal()

    stages = user.finish()
    assert [stages[name]["status"] for name in ("data", "teacher", "search")] == ["reused", "reused", "done"]
    assert {trial["state"] for trial in stages["search"]["outputs"]["trials"]} <= {"complete", "waiting", "stopped", "infeasible"}
    _kept_trials(user, events, stages["search"]["outputs"]["trials"])


def _processes(user: User, name: str) -> list[psutil.Process]:
    """Those of this user's head."""
    state = local_head.status(Settings(home=user.commands.home))
    below = psutil.Process(state.pid).children(recursive=True) if state is not None else []
    return [one for one in below if _is_called(one, name)]


def _is_called(process: psutil.Process, name: str) -> bool:
    try:
        return name in process.cmdline()[0]
    except (psutil.Error, IndexError):  # it is gone, or nearly
        return False


@pytest.mark.timeout(900)
def test_an_interrupted_run_prints_the_command_that_goes_on(user: User) -> None:
    process = user.start()
    _wait(lambda: bool(user.teacher_curve()), process, user, what="checkpoint of the teacher")
    command = _interrupted(process, signal.SIGTERM, user, stage="teacher")
    teacher = user.teacher_curve()

    process = user.commands.start(*command, "--json")
    _wait(lambda: bool(_of_rungs(user.journal())), process, user, what="trial at a rung")
    assert _interrupted(process, signal.SIGINT, user, stage="search") == command
    events = user.journal()

    process = user.commands.start(*command, "--json")
    _wait(lambda: len(user.student_curve()) > RUNGS[-1], process, user, what="checkpoint of the student")
    assert _interrupted(process, signal.SIGINT, user, stage="student") == command
    student = user.student_curve()

    stages = user.finish(*command, "--json")
    assert [(record.run_id, record.status) for record in user.records()] == [(command[1], "done")]
    _went_on(stages["teacher"]["outputs"]["curve"], teacher, TEACHER_EPOCHS)
    _went_on(stages["student"]["outputs"]["curve"], student, STUDENT_EPOCHS)
    _kept_trials(user, events, stages["search"]["outputs"]["trials"])


def _interrupted(process: subprocess.Popen[str], number: signal.Signals, user: User, *, stage: str) -> list[str]:
    """Interrupt a run in its stage, and return the arguments of the command that it prints."""
    before = len(user.commands.log.read_text())
    process.send_signal(number)
    assert process.wait(timeout=60) == 130, user.commands.log.read_text()[-3000:]
    printed = user.commands.log.read_text()[before:]
    assert "Traceback" not in printed
    (record,) = user.records()
    assert (record.status, record.stages[-1].name, record.stages[-1].status) == ("interrupted", stage, "interrupted")
    found = re.search(r"`foundry (resume .*)` goes on from here", printed)
    assert found is not None, printed
    return found[1].split()
