"""The whole pipeline at smoke scale, once, with everything that a user does afterwards."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest

from foundry_ray import assets
from foundry_ray.testing.commands import Commands, Outcome

MAILS = """
name: mails
data: {source: ./mails.jsonl, split: {train: 80, val: 20, test: 20}, text: {length: 8, vocab_size: 150}}
task: text_classification
teacher:
  model: {family: transformer, width: 32, depth: 2, params: {heads: 2}}
  train: {epochs: 4, batch_size: 16, lr: 0.01, precision: fp32}
  workers: 1
search: {space: text, scheduler: {rungs: [2]}, budget: {trials: 2}, latency: {budget_s: 0.05}}
student: {epochs: 2, batch_size: 16, precision: fp32, calibration_rows: 32, target_views: 1}
gates: {accuracy_drop_points: 100}
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    folder = tmp_path_factory.mktemp("user")
    commands = Commands(home=folder / "home", folder=folder)
    assert commands.run("init", ".").code == 0
    commands.fetch("mnist_5k")
    yield commands
    commands.stop_services()


@pytest.fixture(scope="module")
def first(commands: Commands) -> Outcome:
    """A smoke run whose gates a model of two epochs can pass, left up with --keep."""
    loose = ["--set", "gates={accuracy_drop_points: 100}", "--set", "serve.num_requests=5"]
    outcome = commands.run("run", "pipeline.yaml", "--scale", "smoke", *loose, "--keep", "--json", timeout_s=600)
    assert outcome.code == 0, outcome.stderr[-3000:]
    return outcome


def _statuses(outcome: Outcome) -> dict[str, str]:
    return {stage["name"]: stage["status"] for stage in json.loads(outcome.stdout)["stages"]}


@pytest.mark.timeout(700)
def test_a_run_does_every_stage(first: Outcome) -> None:
    assert _statuses(first) == dict.fromkeys(("data", "teacher", "search", "student", "evaluation", "registry", "serving"), "done")


@pytest.mark.timeout(700)
def test_a_second_run_reuses_every_finished_stage(commands: Commands, first: Outcome) -> None:
    loose = ["--set", "gates={accuracy_drop_points: 100}", "--set", "serve.num_requests=5"]
    again = commands.run("run", "pipeline.yaml", "--scale", "smoke", *loose, "--keep", "--json", timeout_s=300)
    statuses = _statuses(again)
    assert statuses.pop("serving") == "done"
    assert set(statuses.values()) == {"reused"}


def test_plan_says_what_is_reused_and_what_changed(commands: Commands, first: Outcome) -> None:
    planned = commands.run("plan", "pipeline.yaml", "--scale", "smoke", "--set", "teacher.train.lr=0.001", "--json").document
    stages = {stage["name"]: stage for stage in planned["stages"]}
    assert stages["data"]["action"] == "reused"
    assert stages["teacher"]["action"] == "run"
    assert "teacher.train.lr" in stages["teacher"]["reason"]


def test_the_run_is_listed_shown_and_reported(commands: Commands, first: Outcome) -> None:
    run_id = json.loads(first.stdout)["run_id"]
    assert run_id in commands.run("runs", "list").stdout
    assert "served file" in commands.run("runs", "show", run_id).stdout
    assert commands.run("report", run_id, "-o", "report.html").code == 0
    page = (commands.folder / "report.html").read_text()
    assert page.count("<svg") >= 2
    assert not re.search(r"(?:src|href)=.?https?:|@import|url\([^#]", page), "the page needs something from elsewhere"


def test_trials_are_listed_and_the_front_is_a_part_of_them(commands: Commands, first: Outcome) -> None:
    trials = commands.run("trials", "latest", "--json").document
    front = commands.run("trials", "latest", "--pareto", "--json").document
    assert 1 <= len(front) <= len(trials) == 4
    assert all(trial["state"] != "running" for trial in trials)


def test_a_study_is_shown_at_one_look(commands: Commands, first: Outcome) -> None:
    shown = commands.run("study", "show", "latest", "--json").document
    assert shown["study"]["stopped_by"] == "trials"
    assert shown["study"]["history"][-1]["worker_seconds"] > 0
    assert {one["metric"] for one in shown["importances"]} == {"accuracy", "latency_p50_ms", "size_bytes"}
    assert "most accurate" in commands.run("study", "show", "latest").stdout


def test_a_study_opens_in_optuna(commands: Commands, first: Outcome) -> None:
    exported = commands.run("study", "export", "latest", "--to", "sqlite:///study.db", "--json").document
    study = optuna.load_study(study_name=exported["study_name"], storage=f"sqlite:///{commands.folder}/study.db")
    trials = commands.run("trials", "latest", "--sort", "number", "--json").document
    assert [trial.params for trial in study.trials] == [trial["params"] for trial in trials]
    assert commands.run("study", "export", "latest", "--to", "sqlite:///study.db").code == 2


@pytest.mark.timeout(400)
def test_another_trial_is_finished_and_served_in_place_of_the_chosen_one(commands: Commands, first: Outcome) -> None:
    run_id = json.loads(first.stdout)["run_id"]
    trials = commands.run("trials", run_id, "--json").document
    another = next(trial["number"] for trial in trials[1:] if trial["state"] == "complete")
    outcome = commands.run("deploy", run_id, "--trial", str(another), "--json", timeout_s=300)
    assert outcome.code == 0, outcome.stderr[-3000:]
    assert _statuses(outcome) == {"search": "done", "student": "done", "evaluation": "done", "registry": "done", "serving": "done"} | dict.fromkeys(
        ("data", "teacher"), "reused"
    )
    champion = commands.run("models", "show", "mnist@champion", "--json").document
    assert champion["lineage"]["trial"]["number"] == another
    served = commands.run("endpoints", "show", "mnist", "--json").document
    assert served["model_version"] == str(champion["version"])


@pytest.mark.timeout(400)
def test_a_study_goes_on_with_more_trials_and_nothing_is_trained_again(commands: Commands, first: Outcome) -> None:
    run_id = json.loads(first.stdout)["run_id"]
    before = commands.run("trials", run_id, "--sort", "number", "--json").document
    outcome = commands.run("study", "extend", run_id, "--trials", "1", "--set", "serve.enabled=false", "--json", timeout_s=300)
    extension = json.loads(outcome.stdout)
    assert outcome.code == 0, outcome.stderr[-3000:]
    assert extension["extended"] == extension["study_key"]
    after = commands.run("trials", extension["record"]["run_id"], "--sort", "number", "--json").document
    assert len(after) == len(before) + 1
    assert [trial["params"] for trial in after[: len(before)]] == [trial["params"] for trial in before]


def test_the_champion_predicts_without_a_server_and_pulls_into_a_folder(commands: Commands, first: Outcome) -> None:
    images = np.zeros((3, 1, 28, 28), dtype=np.uint8)
    np.save(commands.folder / "images.npy", images)
    answers = commands.run("predict", "mnist@champion", "images.npy", "--json").document
    assert len(answers) == 3
    assert commands.run("models", "pull", "mnist@champion", "pulled").code == 0
    import onnxruntime

    session = onnxruntime.InferenceSession(str(commands.folder / "pulled" / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.run(None, {"pixels": images})[0].shape == (3, 10)


def test_the_endpoint_outlives_the_command_until_it_is_deleted(commands: Commands, first: Outcome) -> None:
    found = commands.run("endpoints", "list", "--json").document
    assert [endpoint["app_name"] for endpoint in found] == ["mnist"]
    assert commands.run("endpoints", "delete", "mnist").code == 0
    assert commands.run("endpoints", "list", "--json").document == []


def test_fresh_does_a_stage_again(commands: Commands, first: Outcome, tmp_path: Path) -> None:
    options = ["--set", "gates={accuracy_drop_points: 100}", "--set", "serve.enabled=false", "--fresh", "evaluation", "--keep", "--json"]
    statuses = _statuses(commands.run("run", "pipeline.yaml", "--scale", "smoke", *options))
    assert statuses["evaluation"] == "done"
    assert statuses["student"] == "reused"


def test_a_failed_gate_is_exit_code_3_and_the_champion_stays(commands: Commands, first: Outcome) -> None:
    before = commands.run("models", "show", "mnist@champion", "--json").document
    strict = ["--set", "gates={accuracy_drop_points: 0, size_ratio: 0.0001}", "--keep", "--json"]
    outcome = commands.run("run", "pipeline.yaml", "--scale", "smoke", *strict)
    assert outcome.code == 3
    assert json.loads(outcome.stdout)["status"] == "rejected"
    assert commands.run("models", "show", "mnist@champion", "--json").document["version"] == before["version"]


@pytest.fixture(scope="module")
def of_texts(commands: Commands) -> Outcome:
    """A pipeline of texts out of a table, to its champion; in the head that is up, where there is one."""
    words = {"ham": ("minutes", "meeting", "report", "review"), "spam": ("winner", "prize", "offer", "cash")}
    rows = [{"label": label, "text": f"the {words[label][n % 4]} of {words[label][n // 4 % 4]} number {n}"} for n in range(60) for label in words]
    (commands.folder / "mails.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (commands.folder / "mails.yaml").write_text(MAILS)
    outcome = commands.run("run", "mails.yaml", "--keep", "--json", timeout_s=300)
    assert outcome.code == 0, outcome.stderr[-3000:]
    return outcome


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_pipeline_of_texts_ends_in_a_champion_that_answers_about_texts(commands: Commands, of_texts: Outcome) -> None:
    assert _statuses(of_texts) == dict.fromkeys(("data", "teacher", "search", "student", "evaluation", "registry"), "done")
    (commands.folder / "new.txt").write_text("the prize of cash number 99\nthe review of minutes number 98\n")
    answers = commands.run("predict", "mails@champion", "new.txt", "--json").document
    assert [answer["class"] for answer in answers] == ["spam", "ham"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_model_of_texts_is_taken_apart(commands: Commands, of_texts: Outcome) -> None:
    found = commands.run("analyze", "mails@champion", "--rows", "20", "--ratio", "0.5", "--json").document
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert found["family"] == "transformer"
    assert layers["head"]["num_params"] == layers["head"]["num_macs"] + 2, "a bias for each of two classes"
    assert {one["how"] for one in found["sensitivities"]} == {"prune", "int8"}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_search_over_texts_is_profiled_before_it_runs(commands: Commands, of_texts: Outcome) -> None:
    profile = commands.run("plan", "mails.yaml", "--profile", "--json").document["profile"]
    assert profile["smallest"]["num_params"] <= profile["largest"]["num_params"] < profile["teacher"]["num_params"]
    assert profile["effort"]["epoch_s"] > 0


def test_shipped_pipeline_is_what_init_writes(commands: Commands) -> None:
    assert (commands.folder / "pipeline.yaml").read_bytes() == (assets.root() / "pipeline.yaml").read_bytes()
