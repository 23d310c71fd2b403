"""What `foundry replay` prints."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from rich.console import Console

from foundry_ray.cli.replays import _finish
from foundry_ray.replay import Making, Outcome, Point, Replay, Verdict, compare
from foundry_ray.reporting.replay import replay_table
from foundry_ray.testing import samples

MAKING = Making(data_fingerprint="d" * 64, teacher_weights="t" * 64, student_weights="s" * 64, served_file="o" * 64, report=samples.report())
BROKEN = Point(name="student num_params", kind="count", original=60_000, replayed=60_010, outcome=Outcome.DIFFERENT)


def _replay(verdict: Verdict, *, points: tuple[Point, ...] = (), made: tuple[str, ...] = ("student",), folder: str | None = None) -> Replay:
    warnings = ("library torch was 1 when the version was made, and is 2 now.",)
    return Replay(
        version="mnist:1",
        run_id="run-1",
        verdict=verdict,
        points=points or compare(MAKING, MAKING, primary_metric="accuracy"),
        made=made,
        warnings=warnings,
        num_test_openings=2,
        folder=folder,
    )


def _text(replay: Replay) -> str:
    with Path("/dev/null").open("w") as nowhere:
        console = Console(width=140, record=True, file=nowhere)
        console.print(replay_table(replay))
        return console.export_text()


def test_the_table_holds_both_sides_their_difference_and_the_verdict() -> None:
    text = _text(_replay(Verdict.IDENTICAL))
    assert "identical: the same bytes" in text
    assert "ssssssssssss  " in text
    assert "0.9740 [0.9600, 0.9800]" in text
    assert "passed: 0.6 <= 3" in text
    assert "opened twice" in text
    assert "library torch was 1" in text


def test_what_is_different_is_marked_with_its_size() -> None:
    row = next(line for line in _text(_replay(Verdict.DIFFERENT, points=(BROKEN,))).splitlines() if "num_params" in line)
    assert row.split() == ["student", "num_params", "60000", "60010", "+10", "different"]


def test_a_reused_teacher_and_a_kept_folder_are_stated() -> None:
    text = _text(_replay(Verdict.IDENTICAL, folder="/home/replays/mnist-1"))
    assert "reused: the data set and the teacher of the original" in text
    assert "kept in /home/replays/mnist-1" in text
    assert "reused" not in _text(_replay(Verdict.IDENTICAL, made=("data", "teacher", "student")))


def test_a_different_version_ends_the_command_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        _finish(_replay(Verdict.DIFFERENT))
    assert caught.value.exit_code == 3
    _finish(_replay(Verdict.EQUIVALENT))
    assert "equivalent" in capsys.readouterr().out
