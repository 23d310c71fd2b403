import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from foundry_ray.errors import ArtifactNotFound, ConfigError
from foundry_ray.reporting import page, tables, units
from foundry_ray.reporting.leaderboard import leaderboard
from foundry_ray.testing import samples
from foundry_ray.testing.stores import MemoryStore


def _text(renderable: RenderableType, width: int = 120) -> str:
    console = Console(width=width, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(renderable)
    console.file.close()
    return console.export_text()


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (units.si_bytes(2_831_155), "2.7 MiB"),
        (units.si_count(698_000), "698 k"),
        (units.ratio(80, 10), "8.0x"),
        (units.ratio(1, 0), "-"),
        (units.duration(192), "3 min 12 s"),
        (units.duration(7500), "2 h 05 min"),
        (units.value("accuracy", 0.9712), "97.12 %"),
        (units.value("latency_p50_ms", 0.1), "0.100 ms"),
    ],
)
def test_numbers_read_as_people_write_them(shown: str, wanted: str) -> None:
    assert shown == wanted


def test_the_summary_holds_teacher_student_ratio_gate_and_endpoint() -> None:
    text = _text(tables.run_summary(samples.record()))
    for wanted in ("98.00 % [97.0, 99.0]", "-0.60 points", "11.7x less", "pass 0.6 points <= 3", "http://127.0.0.1:8000", "opened twice"):
        assert wanted in text


def test_a_failed_gate_says_that_the_champion_stays() -> None:
    text = _text(tables.run_summary(samples.record(passed=False)))
    assert "FAIL 0.6 points <= 0.5" in text
    assert "the champion stays" in text


def test_trials_show_the_winner_and_the_front() -> None:
    text = _text(tables.trials_table(samples.study(), samples.study().trials))
    assert re.search(r">0 +complete", text)
    assert re.search(r"\*1 +complete", text)
    assert "2 complete, 1 stopped" in text


def test_the_leaderboard_sorts_and_filters() -> None:
    record = samples.record()
    assert [trial.number for trial in leaderboard(record, sort="accuracy")[1]] == [1, 0, 2]
    assert [trial.number for trial in leaderboard(record, sort="latency_p50_ms")[1]] == [0, 1, 2]
    assert [trial.number for trial in leaderboard(record, only_front=True)[1]] == [0, 1]
    with pytest.raises(ConfigError, match="--sort got 'speed', wanted one of number, accuracy"):
        leaderboard(record, sort="speed")


def test_a_run_without_a_study_says_how_to_get_one() -> None:
    with pytest.raises(ArtifactNotFound, match="has no finished study"):
        leaderboard(replace(samples.record(), stages=()))


def test_the_page_is_self_contained_and_escaped(store: MemoryStore, tmp_path: Path) -> None:
    html = page.write(store, samples.record(), tmp_path / "r.html").read_text()
    assert html.count("<svg") == 3
    assert not re.search(r"""(src|href)=["']https?:""", html)
    assert "<script" not in html
    assert "a &lt;warning&gt; &amp; more" in html
    assert store.get("runs/mnist-20260101-000000-aaaa/report.html") == html.encode()


def test_the_page_of_an_unfinished_run_shows_what_there_is() -> None:
    html = page.render(replace(samples.record(), stages=()))
    assert "<svg" not in html
    assert "Stages" in html


def test_a_page_that_cannot_be_written_is_a_readable_error(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no/r\.html cannot be written: No such file or directory"):
        page.write(store, samples.record(), tmp_path / "no" / "r.html")
