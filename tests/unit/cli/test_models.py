"""The commands on registered models, against a store in a folder."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foundry_ray import registry
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.artifacts.manifests import publish, put_json
from foundry_ray.cli.main import app
from foundry_ray.cli.output import on_interrupt, run_app
from foundry_ray.testing import samples
from foundry_ray.testing.clock import FakeClock
from foundry_ray.types import CompressionRecipe, ModelArtifact, to_json

Foundry = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def registered(tmp_path: Path) -> LocalStore:
    """Three versions of mnist; the third one is the champion, the second one did not pass."""
    store = LocalStore(tmp_path / "store")
    for number, passed in ((1, True), (2, False), (3, True)):
        artifact = publish(store, kind="model", files={"model.onnx": bytes([number])}, created_at="2026-01-01")
        model = ModelArtifact(artifact=artifact, family="resnet", num_params=10, num_macs=20, size_bytes=1, recipe=CompressionRecipe())
        report = f"stages/evaluation/{number}.json"
        put_json(store, report, {"outputs": to_json(samples.report(passed=passed))})
        registry.register(store, name="mnist", model=model, report_key=report, passed=passed, run_id="r", clock=FakeClock(), by="ann@desk")
    return store


@pytest.fixture
def foundry(registered: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Foundry]:
    """Runs the command line in this process, as user bob, with the registered models in FOUNDRY_STORE."""
    before = signal.getsignal(signal.SIGTERM)
    for name in ("FOUNDRY_SIGNING_KEY", "FOUNDRY_SIGNING_KEY_FILE", "FOUNDRY_VERIFY_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("FOUNDRY_HOME", str(tmp_path / "home")), ("FOUNDRY_STORE", registered.uri), ("FOUNDRY_USER", "bob")):
        monkeypatch.setenv(name, value)

    def run(*args: str | Path) -> int:
        monkeypatch.setattr("sys.argv", ["foundry", *map(str, args)])
        on_interrupt("")
        return run_app(app)

    yield run
    signal.signal(signal.SIGTERM, before)


def test_promote_and_rollback_are_told_in_the_history(foundry: Foundry, capsys: Capture) -> None:
    assert foundry("models", "promote", "mnist:1", "--reason", "safer", "--expect", "3") == 0
    assert capsys.readouterr().out.startswith("mnist@champion points at version 1, before it at 3 (move 3, bob@")
    assert foundry("models", "rollback", "mnist", "--reason", "it was not") == 0
    capsys.readouterr()
    assert foundry("models", "history", "mnist@champion", "--json") == 0
    moves = json.loads(capsys.readouterr().out)
    assert [(move["previous"], move["version"], move["kind"], move["reason"]) for move in moves] == [
        (None, 1, "register", "registered by run r"),
        (1, 3, "register", "registered by run r"),
        (3, 1, "promote", "safer"),
        (1, 3, "rollback", "it was not"),
    ]
    assert moves[-1]["by"].startswith("bob@")
    assert foundry("models", "history", "mnist") == 0
    assert "it was not" in capsys.readouterr().out


def test_a_promotion_that_is_refused_ends_with_its_exit_code(foundry: Foundry, capsys: Capture) -> None:
    assert foundry("models", "promote", "mnist:2") == 3
    assert "did not pass the gates (accuracy_drop_points is 0.6, wanted <= 0.5)" in capsys.readouterr().err
    assert foundry("models", "promote", "mnist:1", "--expect", "1") == 5
    assert "points at version 3" in capsys.readouterr().err
    assert foundry("models", "promote", "mnist:2", "--alias", "candidate") == 0
    assert foundry("models", "promote", "mnist:2", "--alias", "candidate") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:48] for line in lines] == 2 * ["mnist@candidate points at version 2 (move 1, bob"]
    assert foundry("models", "rollback", "mnist", "--alias", "candidate") == 2
    assert foundry("models", "history", "mnist@nobody") == 2


def test_a_promotion_that_changes_nothing_says_that_its_reason_is_not_noted(foundry: Foundry, capsys: Capture) -> None:
    assert foundry("models", "promote", "mnist:3", "--reason", "again") == 0
    assert "It did so before: nothing was changed, and no reason noted." in capsys.readouterr().out


def test_what_is_printed_is_what_was_written(foundry: Foundry, capsys: Capture) -> None:
    value = "[red]x[/red] :warning: [/nothing] " + "y" * 150
    assert foundry("models", "tag", "mnist:1", f"note={value}") == 0
    assert capsys.readouterr().out == f"mnist:1: note={value}\n"


def test_tags_are_set_shown_and_filtered_by(foundry: Foundry, capsys: Capture) -> None:
    assert foundry("models", "tag", "mnist:1", "stage=prod", "owner=ann") == 0
    assert foundry("models", "tag", "mnist@champion", "stage=prod", "--remove", "owner") == 2
    assert foundry("models", "tag", "mnist:1", "--remove", "owner") == 0
    assert capsys.readouterr().out.endswith("mnist:1: stage=prod\n")
    assert foundry("models", "list", "--tag", "stage=prod", "--json") == 0
    assert [entry["version"] for entry in json.loads(capsys.readouterr().out)] == [1]
    assert foundry("models", "list", "mnist", "--tag", "stage=dev", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_list_and_show_flag_a_champion_whose_newest_report_failed(foundry: Foundry, registered: LocalStore, capsys: Capture) -> None:
    model = registry.resolve(registered, "mnist:3").model
    registry.register(registered, name="mnist", model=model, report_key="x", passed=False, run_id="r", clock=FakeClock())
    for command in (("models", "list"), ("models", "show", "mnist@champion")):
        assert foundry(*command) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "champion (newest report failed)" in said
        assert "`foundry models rollback mnist` goes back" in said


def test_show_has_the_entry_at_the_top_and_a_tree_of_its_lineage(foundry: Foundry, capsys: Capture) -> None:
    assert foundry("models", "show", "mnist@champion", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["version"], document["aliases"], document["signature"]["status"]) == (3, ["champion"], "unsigned")
    assert document["evaluation"]["passed"] is True
    assert foundry("models", "show", "mnist@champion") == 0
    assert "all gates passed" in capsys.readouterr().out
    assert foundry("models", "show", "mnist:1", "--lineage") == 0
    assert "not known: it was registered before lineage was kept" in capsys.readouterr().out


def test_show_prints_the_card_as_markdown(foundry: Foundry, capsys: Capture) -> None:
    assert foundry("models", "show", "mnist:1", "--card") == 0
    said = capsys.readouterr().out
    assert said.startswith("# mnist:1\n")
    assert "session = onnxruntime.InferenceSession(" in said
    assert foundry("models", "show", "mnist:1", "--card", "--json") == 0
    assert json.loads(capsys.readouterr().out)["card"].strip() == said.strip()


def test_a_pulled_folder_has_the_files_and_a_card(foundry: Foundry, tmp_path: Path, capsys: Capture) -> None:
    assert foundry("models", "pull", "mnist:1", tmp_path / "pulled", "--json") == 0
    assert sorted(json.loads(capsys.readouterr().out)["files"]) == ["MODEL_CARD.md", "model.onnx"]
    assert (tmp_path / "pulled" / "model.onnx").read_bytes() == b"\x01"
    assert (tmp_path / "pulled" / "MODEL_CARD.md").read_text().startswith("# mnist:1\n")


def test_verify_prints_each_point_and_ends_with_5_where_one_fails(foundry: Foundry, capsys: Capture) -> None:
    assert foundry("models", "verify", "mnist:1", "--json") == 5
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["model.onnx"]["is_ok"]
    assert "onnxruntime cannot load 1 bytes" in findings["model.onnx loads"]["detail"]
    assert "it judged model student" in findings["report's model"]["detail"]


def test_a_made_key_signs_what_its_public_half_then_asks_for(
    foundry: Foundry, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    assert foundry("models", "keygen", "-o", key) == 0
    assert key.read_text().strip().partition(":")[2] not in capsys.readouterr().out
    monkeypatch.setenv("FOUNDRY_VERIFY_KEY", (tmp_path / "key.pub").read_text())
    assert foundry("models", "pull", "mnist:1", tmp_path / "pulled") == 5
    assert foundry("predict", "mnist:1", tmp_path) == 5
    assert capsys.readouterr().err.count("mnist:1 is not used: it is not signed") == 2
    assert foundry("models", "sign", "mnist:1") == 2
    monkeypatch.setenv("FOUNDRY_SIGNING_KEY_FILE", str(key))
    assert [foundry("models", "sign", "mnist:1") for _ in range(2)] == [0, 0]
    assert capsys.readouterr().out.endswith("Signed mnist:1.\nmnist:1 is signed with this key already.\n")
    monkeypatch.delenv("FOUNDRY_SIGNING_KEY_FILE")
    assert foundry("models", "pull", "mnist:1", tmp_path / "pulled") == 0
    assert foundry("models", "show", "mnist:1") == 0
    assert "with ed25519 key" in capsys.readouterr().out
