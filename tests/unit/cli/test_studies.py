"""The commands that read a study, on a stored run."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import optuna
import pytest

from foundry_ray import studies
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.cli.main import app
from foundry_ray.cli.output import run_app
from foundry_ray.search.extending import Changes, Extension
from foundry_ray.testing import samples
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stored_runs import RUN_ID, store_run
from foundry_ray.types import RunStatus

Foundry = Callable[..., "Ended"]


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def foundry(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Foundry]:
    """Runs a command on a store with one finished run."""
    store = LocalStore(tmp_path / "store")
    store_run(store, clock=clock)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOUNDRY_STORE", store.uri)

    def run(*args: str) -> Ended:
        monkeypatch.setattr("sys.argv", ["foundry", *args])
        return Ended(run_app(app), *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


def test_trials_say_why_each_ended(foundry: Foundry) -> None:
    ended = foundry("trials", "latest")
    assert (ended.code, "stopped after 9 epochs" in ended.out) == (0, True)


def test_a_study_is_shown_as_a_table_and_as_json(foundry: Foundry) -> None:
    assert "what policies choose" in foundry("study", "show", "latest").out
    shown = json.loads(foundry("study", "show", "latest", "--json").out)
    assert shown["run_id"] == RUN_ID
    assert [one["policy"] for one in shown["alternatives"]][:1] == ["most accurate"]
    assert shown["importances"][0]["why_not"] == "3 trials compare, wanted 10 or more"


def test_a_study_is_exported_once(foundry: Foundry, tmp_path: Path) -> None:
    command = ("study", "export", "latest", "--to", f"sqlite:///{tmp_path}/study.db", "--json")
    exported = json.loads(foundry(*command).out)
    assert exported["num_trials"] == 3
    assert len(optuna.load_study(study_name=exported["study_name"], storage=exported["storage"]).trials) == 3
    again = foundry(*command)
    assert (again.code, "is there already" in again.err) == (2, True)


def test_a_run_that_is_not_there_is_the_users_mistake(foundry: Foundry) -> None:
    assert foundry("study", "show", "nobody").code == 2


def test_extending_hands_on_what_is_asked_for_and_says_what_was_taken_over(foundry: Foundry, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def extend_study(run: str, changes: Changes, *, context: object, cluster: str | None, on_start: Callable[[str], None]) -> Extension:
        asked.extend((run, changes, cluster))
        record = replace(samples.record(), status=RunStatus.REJECTED)
        return Extension(extended="a" * 32, study_key="b" * 32, num_before=12, num_adopted=9, num_suggested=0, record=record)

    monkeypatch.setattr(studies, "extend_study", extend_study)
    options = ("--trials", "5", "--space", "compression", "--objective", "accuracy:max", "--objective", "num_macs:min", "--set", "seed=1")
    ended = foundry("study", "extend", "latest", *options)
    assert asked == ["latest", Changes(trials=5, space="compression", objectives=("accuracy:max", "num_macs:min"), overrides=("seed=1",)), None]
    assert (ended.code, "9 of the 12 trials of study-aaaaaaaa were taken over" in ended.out) == (3, True)
