"""The commands that look after a store, and move runs, on a store in a folder."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foundry_ray.artifacts.local import LocalStore
from foundry_ray.cli.main import app
from foundry_ray.cli.output import on_interrupt, run_app
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stored_runs import RUN_ID, stage_key_of, store_run

Foundry = Callable[..., int]
Capture = pytest.CaptureFixture[str]
TEACHER = f"stages/teacher/{stage_key_of('teacher')}.json"


@pytest.fixture
def full(tmp_path: Path) -> LocalStore:
    """A store with one finished run."""
    store = LocalStore(tmp_path / "store")
    store_run(store, clock=FakeClock())
    return store


@pytest.fixture
def foundry(full: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Foundry]:
    """Runs the command line in this process, with the full store in FOUNDRY_STORE."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOUNDRY_STORE", full.uri)

    def run(*args: str | Path) -> int:
        monkeypatch.setattr("sys.argv", ["foundry", *map(str, args)])
        on_interrupt("")
        return run_app(app)

    yield run
    signal.signal(signal.SIGTERM, before)


def test_a_whole_store_verifies_with_0(foundry: Foundry, capsys: Capture) -> None:
    assert foundry("store", "verify", "--deep") == 0
    assert "nothing is missing or corrupt." in capsys.readouterr().out


def test_a_broken_store_verifies_with_5_and_says_what_mends_it(foundry: Foundry, full: LocalStore, capsys: Capture) -> None:
    full.delete(TEACHER)
    assert foundry("store", "verify") == 5
    said = capsys.readouterr().out
    for part in (f"missing  {TEACHER}: is named and not there", f"breaks: run {RUN_ID}", "fix: foundry run pipeline.yaml --fresh teacher"):
        assert part in said
    assert "1 missing or corrupt." in said


def test_findings_are_one_document(foundry: Foundry, full: LocalStore, capsys: Capture) -> None:
    full.delete(TEACHER)
    assert foundry("store", "verify", RUN_ID, "--json") == 5
    document = json.loads(capsys.readouterr().out)
    assert (document["scope"], document["is_deep"]) == (RUN_ID, False)
    assert [problem["key"] for problem in document["problems"]] == [TEACHER]


def test_many_findings_of_one_cause_are_told_together(foundry: Foundry, full: LocalStore, capsys: Capture) -> None:
    full.delete(*[info.key for info in full.list("blobs/")])
    assert foundry("store", "verify") == 5
    assert capsys.readouterr().out.count("--fresh student") == 1


def test_du_shows_kinds_runs_and_the_price_that_it_assumes(foundry: Foundry, capsys: Capture) -> None:
    assert foundry("store", "du", "--price-per-gb-month", "1000") == 0
    said = " ".join(capsys.readouterr().out.split())
    for part in ("model files 3 293.0 KiB", RUN_ID, "0.30 USD a month, assuming 1000 USD a month for a GB of 2^30 bytes"):
        assert part in said
    assert foundry("store", "du", "--json") == 0
    assert json.loads(capsys.readouterr().out)["price_per_gb_month"] == 0.023


def test_a_run_moves_from_store_to_store(foundry: Foundry, tmp_path: Path, capsys: Capture) -> None:
    file, target = tmp_path / "run.tar.gz", (tmp_path / "other").as_uri()
    assert foundry("runs", "export", "latest", file, "--with-checkpoints") == 0
    assert f"Wrote {RUN_ID} to" in capsys.readouterr().out
    assert foundry("runs", "import", file, "--store", target) == 0
    assert "Its model is mnist:1 here" in " ".join(capsys.readouterr().out.split())
    assert foundry("runs", "import", file, "--store", target) == 0
    assert "everything was there already" in " ".join(capsys.readouterr().out.split())
    assert foundry("runs", "show", RUN_ID, "--store", target) == 0
    assert foundry("store", "verify", RUN_ID, "--deep", "--store", target) == 0
    assert list((tmp_path / "home" / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("export", RUN_ID, "run.tar.zst"), 2, "asks for zstandard"),
        (("export", "nope", "run.tar"), 2, "There is no run 'nope'"),
        (("import", "nope.tar"), 2, "is no file"),
        (("import", __file__), 5, "is no tar file"),
    ],
)
def test_what_cannot_move_says_why(foundry: Foundry, capsys: Capture, args: tuple[str, ...], code: int, message: str) -> None:
    assert foundry("runs", *args) == code
    said = capsys.readouterr().err
    assert message in said
    assert "hint:  " in said


def test_an_import_over_the_limit_is_refused(foundry: Foundry, tmp_path: Path, capsys: Capture) -> None:
    foundry("runs", "export", RUN_ID, tmp_path / "run.tar")
    assert foundry("runs", "import", tmp_path / "run.tar", "--max-bytes", "1000", "--store", (tmp_path / "other").as_uri()) == 2
    assert "the limit is 1000" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_conflict_ends_with_5_and_names_the_object(foundry: Foundry, full: LocalStore, tmp_path: Path, capsys: Capture) -> None:
    foundry("runs", "export", RUN_ID, tmp_path / "run.tar")
    changed = full.get(TEACHER).replace(b"resnet", b"cnn")
    full.put(TEACHER, changed)
    assert foundry("runs", "import", tmp_path / "run.tar") == 5
    assert f"holds {TEACHER} with other content" in capsys.readouterr().err
    assert full.get(TEACHER) == changed


def test_deleting_a_run_says_what_can_be_collected_then(foundry: Foundry, capsys: Capture) -> None:
    assert foundry("runs", "delete", RUN_ID) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"Deleted the record of {RUN_ID}." in said
    assert "`foundry store gc --apply` removes" in said


def test_a_run_that_cannot_be_read_can_be_deleted(foundry: Foundry, full: LocalStore, capsys: Capture) -> None:
    full.put(f"runs/{RUN_ID}/record.json", b"[" * 100_000)
    assert foundry("runs", "show", RUN_ID) == 5
    assert "nested deeper than 100 levels" in capsys.readouterr().err
    assert foundry("runs", "delete", RUN_ID) == 0
    assert list(full.list("runs/")) == []


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"record": [1]}', b"\xff", b"null"])
def test_a_record_of_another_shape_is_an_error_with_a_hint(foundry: Foundry, full: LocalStore, capsys: Capture, data: bytes) -> None:
    full.put(f"runs/{RUN_ID}/record.json", data)
    assert foundry("runs", "list") == 5
    said = capsys.readouterr().err
    assert f"runs/{RUN_ID}/record.json" in said
    assert "hint:  " in said
