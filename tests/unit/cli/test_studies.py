"""The commands that read a study, on a stored run."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest

from foundry_ray.artifacts.local import LocalStore
from foundry_ray.cli.main import app
from foundry_ray.cli.output import run_app
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stored_runs import RUN_ID, store_run

Foundry = Callable[..., tuple[int, str]]


@pytest.fixture
def foundry(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Foundry]:
    """Runs a command on a store with one finished run: its exit code, and what it printed to both streams."""
    store = LocalStore(tmp_path / "store")
    store_run(store, clock=clock)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOUNDRY_STORE", store.uri)

    def run(*args: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["foundry", *args])
        code = run_app(app)
        said = capsys.readouterr()
        return code, said.out + said.err

    yield run
    signal.signal(signal.SIGTERM, before)


def test_trials_say_why_each_ended(foundry: Foundry) -> None:
    code, said = foundry("trials", "latest")
    assert code == 0
    assert "stopped after 9 epochs" in said


def test_a_study_is_shown_as_a_table_and_as_json(foundry: Foundry) -> None:
    code, said = foundry("study", "show", "latest")
    assert (code, "what policies choose" in said) == (0, True)
    code, said = foundry("study", "show", "latest", "--json")
    shown = json.loads(said)
    assert shown["run_id"] == RUN_ID
    assert [one["policy"] for one in shown["alternatives"]][:1] == ["most accurate"]
    assert shown["importances"][0]["why_not"] == "3 trials compare, wanted 10 or more"


def test_a_study_is_exported_once(foundry: Foundry, tmp_path: Path) -> None:
    code, said = foundry("study", "export", "latest", "--to", f"sqlite:///{tmp_path}/study.db", "--json")
    exported = json.loads(said[said.index("{") :])
    assert (code, exported["num_trials"]) == (0, 3)
    assert len(optuna.load_study(study_name=exported["study_name"], storage=exported["storage"]).trials) == 3
    code, said = foundry("study", "export", "latest", "--to", f"sqlite:///{tmp_path}/study.db")
    assert (code, "is there already" in said) == (2, True)


def test_a_run_that_is_not_there_is_the_users_mistake(foundry: Foundry) -> None:
    assert foundry("study", "show", "nobody")[0] == 2
