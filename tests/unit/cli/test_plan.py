"""`foundry plan --profile`: what it says of a search space before anything is spent on it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from foundry_ray.cli.main import app
from foundry_ray.cli.output import on_interrupt, run_app

Foundry = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def foundry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Foundry]:
    """Runs the command line in this process, with a home of its own and a store that does not exist yet."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOUNDRY_STORE", (tmp_path / "store").as_uri())

    def run(*args: str | Path) -> int:
        monkeypatch.setattr("sys.argv", ["foundry", *map(str, args)])
        on_interrupt("")
        return run_app(app)

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A small teacher, and a space of four students below it; of its data there are two images."""
    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "images" / name / "1.png")
    (tmp_path / "space.yaml").write_text("params: {width: {choice: [4, 8]}, depth: {int: [1, 1]}, weight_bits: {choice: [8, 32]}}")
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        f"name: p\n"
        f"store: {(tmp_path / 'store').as_uri()}\n"
        f"data: {{source: {tmp_path / 'images'}, split: {{train: 640, val: 64, test: 64}}}}\n"
        f"teacher: {{model: {{width: 16, depth: 1}}, workers: 1, train: {{batch_size: 16}}}}\n"
        f"search: {{space: {tmp_path / 'space.yaml'}, latency: {{budget_s: 0.02}}, constraints: ['num_params <= 9000']}}\n"
        f"student: {{batch_size: 16}}\n"
    )
    return path


def test_a_profile_is_a_part_of_the_plan(foundry: Foundry, pipeline: Path, capsys: Capture) -> None:
    assert foundry("plan", pipeline, "--profile", "--price", "2.5", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    profile = plan["profile"]
    assert [stage["name"] for stage in plan["stages"]][:2] == ["data", "teacher"]
    assert profile["teacher"]["latency_p50_ms"] > 0
    assert profile["smallest"]["num_params"] < profile["largest"]["num_params"] < profile["teacher"]["num_params"]
    assert [(one["constraint"], one["share"]) for one in profile["reaches"]] == [("num_params <= 9000", "some")]
    assert profile["effort"]["cost"] == pytest.approx(2.5 * profile["effort"]["worker_hours"])


def test_a_profile_is_shown_below_the_plan_and_leaves_nothing_in_the_store(foundry: Foundry, pipeline: Path, tmp_path: Path, capsys: Capture) -> None:
    assert foundry("plan", pipeline, "--profile") == 0
    said = capsys.readouterr().out
    assert said.index("resolved configuration") < said.index("profile of the search space")
    assert "num_params <= 9000: kept by" in said
    assert not (tmp_path / "store").exists()


def test_a_plain_plan_measures_nothing(foundry: Foundry, pipeline: Path, capsys: Capture) -> None:
    assert foundry("plan", pipeline, "--json") == 0
    assert json.loads(capsys.readouterr().out)["profile"] is None


def test_a_price_without_a_profile_is_refused(foundry: Foundry, pipeline: Path, capsys: Capture) -> None:
    assert foundry("plan", pipeline, "--price", "2.5") == 2
    assert "--price got 2.5 without --profile, wanted both" in capsys.readouterr().err


def test_a_source_that_is_absent_is_told_as_a_plan_tells_it(foundry: Foundry, pipeline: Path, tmp_path: Path, capsys: Capture) -> None:
    assert foundry("plan", pipeline, "--profile", "--set", f"data.source={tmp_path / 'nowhere'}") == 2
    assert "nowhere" in capsys.readouterr().err
