"""What is shown and what is kept while a command works."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from foundry_ray.observability import BestValue, ConsoleReporter, RunningTrial, Spending, StudyView, duration
from foundry_ray.protocols import StudyReporter
from foundry_ray.testing.clock import FakeClock


class _Screen:
    """A reporter on a console in memory."""

    def __init__(self, *, is_terminal: bool = False, quiet: bool = False, events: Path | None = None) -> None:
        self._out = io.StringIO()
        self.clock = FakeClock()
        console = Console(file=self._out, width=100, force_terminal=is_terminal, color_system=None)
        self.reporter = ConsoleReporter(console, quiet=quiet, events=events, clock=self.clock)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._out.getvalue().splitlines()]


def test_a_log_gets_a_line_every_few_seconds_and_no_more() -> None:
    screen = _Screen()
    with screen.reporter.stage("teacher", "starting 2 workers"):
        for epoch in range(1, 13):
            screen.clock.advance(1.0)
            screen.reporter.progress(epoch, 12, f"epoch {epoch} of 12")
    assert screen.lines == [
        "  teacher    starting 2 workers",
        "  teacher      8% epoch 1 of 12",
        "  teacher     50% epoch 6 of 12, 6.0 s left",
        "  teacher     92% epoch 11 of 12, 1.0 s left",
        "✓ teacher     12.0 s  epoch 12 of 12",
    ]


def test_the_time_left_of_a_resumed_stage_counts_from_where_it_resumed() -> None:
    screen = _Screen()
    with screen.reporter.stage("teacher"):
        screen.reporter.progress(90, 100)
        screen.clock.advance(10.0)
        screen.reporter.progress(95, 100)
    assert "10.0 s left" in screen.lines[2]


def test_the_time_left_follows_a_change_of_pace_within_minutes() -> None:
    screen = _Screen()
    with screen.reporter.stage("teacher"):
        for done in range(1000):
            screen.reporter.progress(done, 2000)
            screen.clock.advance(1.0)
        for done in range(1000, 1200):
            screen.reporter.progress(done, 2000)
            screen.clock.advance(4.0)
    assert "53:" in screen.lines[-2]  # 800 steps of 4 s each; the mean of the whole stage would say 20 minutes


def test_a_running_epoch_shows_its_own_numbers_and_of_the_last_one_the_rest() -> None:
    screen = _Screen()
    with screen.reporter.stage("teacher"):
        screen.reporter.report(2, {"accuracy": 0.5, "loss": 1.0, "samples_per_s": 1000.0})
        screen.clock.advance(5.0)
        screen.reporter.progress(250, 1000, "epoch 3/12")
        screen.clock.advance(5.0)
        screen.reporter.metrics(260, {"loss": 0.75, "lr": 0.1, "samples_per_s": 1820.4, "mfu": 0.412})
        screen.clock.advance(5.0)
        screen.reporter.progress(500, 1000)
    assert screen.lines[-2].endswith(" 50% epoch 3/12 · 1,820 samples/s · MFU 41.2% · loss 0.750 · accuracy 0.5000, 20.0 s left")
    assert screen.lines[-1].endswith("accuracy 0.5000 · loss 1.000 · 1,000 samples/s")


def test_sequences_show_their_tokens_per_second() -> None:
    screen = _Screen()
    with screen.reporter.stage("teacher"):
        screen.reporter.metrics(1, {"samples_per_s": 3.0, "tokens_per_s": 1536.0})
    assert screen.lines[1].endswith("1,536 tokens/s")


def test_the_event_log_gets_the_numbers_of_a_running_epoch_every_few_seconds(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    screen = _Screen(events=path)
    with screen.reporter.stage("teacher"):
        for step in range(12):
            screen.reporter.metrics(step, {"loss": 1.0, "grad_norm": float("inf")})
            screen.clock.advance(1.0)
    points = [event for event in map(json.loads, path.read_text().splitlines()) if event["event"] == "metrics"]
    assert [point["step"] for point in points] == [0, 5, 10]
    assert points[0]["metrics"] == {"loss": 1.0, "grad_norm": "inf"}


def test_metrics_of_the_last_epoch_stand_in_the_closing_line() -> None:
    screen = _Screen()
    with screen.reporter.stage("teacher"):
        screen.reporter.report(1, {"accuracy": 0.5, "loss": 1.0})
        screen.reporter.report(2, {"accuracy": 0.98765, "loss": 0.1, "lr": 0.001})
    assert screen.lines[-1].endswith("accuracy 0.9877 · loss 0.100")


def test_a_warning_is_shown_once_and_kept() -> None:
    screen = _Screen()
    for _ in range(3):
        screen.reporter.warn("[bf16] is not there: fp32 is used.")
    assert screen.lines == ["! [bf16] is not there: fp32 is used."]
    assert screen.reporter.warnings == ("[bf16] is not there: fp32 is used.",)


@pytest.mark.parametrize(("error", "mark"), [(ValueError, "✗"), (KeyboardInterrupt, "■")])
def test_a_stage_that_ends_early_says_how(error: type[BaseException], mark: str) -> None:
    screen = _Screen()
    with pytest.raises(error), screen.reporter.stage("search"):
        raise error
    assert screen.lines[-1].startswith(f"{mark} search")


def test_a_reused_stage_says_why() -> None:
    screen = _Screen()
    screen.reporter.reused("data", "equal inputs were done by run mnist-1")
    assert screen.lines == ["↺ data       equal inputs were done by run mnist-1"]


def test_answers_show_which_are_wrong_and_their_median_time() -> None:
    screen = _Screen()
    screen.reporter.answers([("7", "7", 4.0), ("0", "6", 9.0), ("1", "1", 5.0)])
    assert screen.lines == ["✓ answers    2 of 3 right, p50 5.0 ms over HTTP", "7  0 → 6  1"]


def test_quiet_shows_warnings_only() -> None:
    screen = _Screen(quiet=True)
    with screen.reporter.stage("data"):
        screen.reporter.progress(1, 2)
        screen.reporter.warn("one")
    screen.reporter.reused("teacher", "done")
    screen.reporter.answers([("1", "1", 1.0)])
    assert screen.lines == ["! one"]


def test_a_terminal_shows_a_bar_within_its_width() -> None:
    screen = _Screen(is_terminal=True)
    with screen.reporter.stage("teacher"):
        screen.reporter.progress(5, 10, "a note that is far longer than what fits beside the bar of a stage")
        screen.reporter.warn("drawn again below this")
    shown = "\n".join(screen.lines)
    assert "━" in shown
    assert "…" in shown
    assert "✓ teacher" in shown


def test_stages_may_nest_and_progress_belongs_to_the_innermost() -> None:
    screen = _Screen()
    with screen.reporter.stage("search"):
        with screen.reporter.stage("trial 3"):
            screen.reporter.progress(1, 1, "inner")
        screen.reporter.progress(1, 16, "outer")
    assert [line.split()[0] for line in screen.lines if "inner" in line or "outer" in line] == ["trial", "✓", "search", "✓"]


def test_progress_without_a_stage_is_shown_and_ends_by_itself() -> None:
    screen = _Screen()
    screen.reporter.progress(1, 2, "fetching")
    screen.reporter.progress(2, 2, "fetched")
    with screen.reporter.stage("data"):
        pass
    assert screen.lines[0].split() == ["50%", "fetching"]
    assert screen.lines[-1].startswith("✓ data")


def test_events_are_json_lines_with_time_and_fields(tmp_path: Path) -> None:
    path = tmp_path / "events" / "run.jsonl"
    screen = _Screen(events=path)
    with screen.reporter.stage("teacher"):
        screen.clock.advance(2.0)
        screen.reporter.report(1, {"loss": float("nan"), "accuracy": 0.5})
    screen.reporter.event("custom", name="n", path=tmp_path)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["event"] for event in events] == ["stage", "report", "stage", "custom"]
    assert events[1]["metrics"] == {"loss": "nan", "accuracy": 0.5}
    assert events[2]["duration_s"] == 2.0
    assert events[0]["time"] == "2023-11-14T22:13:20.000+00:00"


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (65, "1:05"), (7384, "2:03:04")])
def test_durations_read_as_people_write_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


VIEW = StudyView(
    running=(
        RunningTrial(number=12, doing="trains", epoch=2, to_epoch=3, params={"lr": 0.00312345, "width": 16, "weight_bits": 8}),
        RunningTrial(number=14, doing="measures", epoch=0, to_epoch=1, params={"note": "[x" * 60}),
    ),
    best=(BestValue(metric="accuracy", value=0.97123, number=7), BestValue(metric="size_bytes", value=41_200.0, number=3)),
    num_by_state={"complete": 4, "running": 2, "failed": 0},
    num_front=5,
    waiting="for trial 12: rung 1 is not full",
    spent=(Spending(name="trials", used=6, limit=16), Spending(name="wall_time_s", used=65.0, limit=600.0), Spending(name="worker_hours", used=0.25)),
    hypervolume=0.6312,
)


def test_a_study_stands_below_its_bar_while_it_runs() -> None:
    screen = _Screen(is_terminal=True)
    with screen.reporter.stage("search"):
        screen.reporter.progress(6, 16)
        screen.reporter.study(VIEW)
    shown = "\n".join(screen.lines)
    for wanted in (
        "runs    #12   trains 2/3     lr=0.00312 width=16 weight_bits=8",
        "        #14   measures 0/1   note=[x[x[x",
        "best    accuracy 0.9712 (#7) · size_bytes 41,200 (#3)",
        "trials  4 complete, 2 running · 5 on the front · hypervolume 0.631",
        "spent   6 of 16 trials · 1:05 of 10:00 · 0.250 worker-hours",
        "waits   for trial 12: rung 1 is not full",
    ):
        assert wanted in shown
    assert max(map(len, shown.replace("\x1b", "\n").splitlines())) <= 110  # the terminal has 100 columns, and control codes stand between


def test_small_sums_are_told_in_digits() -> None:
    spent = (Spending(name="worker_hours", used=5.91e-7, limit=0.5), Spending(name="cost", used=0.0012, limit=2.0))
    screen = _Screen(is_terminal=True)
    with screen.reporter.stage("search"):
        screen.reporter.study(StudyView(spent=spent))
    assert "0.000 of 0.5 worker-hours · cost 0.00 of 2" in "\n".join(screen.lines)


def test_a_study_that_has_ended_is_told_by_its_best_and_not_by_its_last_trial() -> None:
    screen = _Screen()
    with screen.reporter.stage("search"):
        screen.reporter.study(VIEW)
        screen.reporter.report(3, {"accuracy": 0.1, "loss": 2.0})
    assert "4 complete, 2 running · 5 on the front" in screen.lines[-1]
    assert "best accuracy 0.9712 (#7) · size_bytes 41,200 (#3)" in screen.lines[-1]
    assert "loss" not in screen.lines[-1]


def test_beside_the_bar_of_a_study_stands_nothing_that_stands_below_it() -> None:
    screen = _Screen(is_terminal=True)
    with screen.reporter.stage("search"):
        screen.reporter.progress(1, 4, "1 running, best accuracy 0.5")
        screen.reporter.study(VIEW)
    assert "1 running" not in screen.lines[-1]


def test_more_running_trials_than_there_is_room_for_are_counted() -> None:
    screen = _Screen(is_terminal=True)
    running = tuple(RunningTrial(number=number, doing="trains", epoch=1, to_epoch=3) for number in range(20))
    with screen.reporter.stage("search"):
        screen.reporter.study(StudyView(running=running))
    shown = "\n".join(screen.lines)
    assert "and 12 more" in shown
    assert "#8 " not in shown


def test_a_study_that_has_ended_is_not_shown_any_more() -> None:
    screen = _Screen(is_terminal=True)
    with screen.reporter.stage("search"):
        screen.reporter.study(VIEW)
    before = len(screen.lines)
    with screen.reporter.stage("student"):
        screen.reporter.progress(1, 2)
    assert "rung 1 is not full" in "\n".join(screen.lines[:before])
    assert "rung 1 is not full" not in "\n".join(screen.lines[before:])


def test_a_log_gets_a_study_in_one_line_every_few_seconds() -> None:
    screen = _Screen()
    with screen.reporter.stage("search"):
        for done in range(12):
            screen.reporter.progress(done, 16, "a note")
            screen.reporter.study(VIEW)
            screen.clock.advance(1.0)
    lines = [line for line in screen.lines if "best accuracy" in line and "runs #" in line]
    assert len(lines) == 2
    assert lines[0].startswith(
        "  search      31% 4 complete, 2 running · 5 on the front · hypervolume 0.631; runs #12 trains 2/3, #14 measures 0/1; best accuracy"
    )
    assert "waits: for trial 12: rung 1 is not full" in lines[0]


def test_the_event_log_gets_a_study_every_few_seconds(tmp_path: Path) -> None:
    screen = _Screen(quiet=True, events=tmp_path / "run.jsonl")
    with screen.reporter.stage("search"):
        for _ in range(6):
            screen.reporter.study(VIEW)
            screen.clock.advance(1.0)
    studies = [event for event in map(json.loads, (tmp_path / "run.jsonl").read_text().splitlines()) if event["event"] == "study"]
    assert len(studies) == 2
    assert studies[0]["best"][0] == {"metric": "accuracy", "value": 0.97123, "number": 7}
    assert screen.lines == []


def test_a_console_can_show_studies() -> None:
    assert isinstance(_Screen().reporter, StudyReporter)


def test_importing_it_loads_no_rich() -> None:
    code = "import sys, foundry_ray.observability; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
