"""Every shipped pipeline plans, and every example runs: at smoke scale, on its real data."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from foundry_ray.testing.commands import Commands

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*/pipeline.yaml"))
PIPELINES = [ROOT / "pipeline.yaml", *EXAMPLES, ROOT / "examples" / "fashion_mnist" / "toolbox.yaml"]
FIRST_CLASS = {"fashion_mnist": "T-shirt/top", "spam": "ham"}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """In the checkout's root, where the README's commands are typed; its home is elsewhere."""
    folder = tmp_path_factory.mktemp("examples")
    commands = Commands(home=folder / "home", folder=ROOT, env={"FOUNDRY_STORE": f"file://{folder}/store"})
    yield commands
    commands.stop_services()


def _fetched(commands: Commands, pipeline: Path) -> Commands:
    commands.fetch(yaml.safe_load(pipeline.read_text())["data"]["source"])
    return commands


def test_there_are_examples() -> None:
    assert {path.parent.name for path in EXAMPLES} == FIRST_CLASS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_pipeline_plans(commands: Commands, pipeline: Path) -> None:
    outcome = _fetched(commands, pipeline).run("plan", pipeline.relative_to(ROOT), "--json")
    assert outcome.code == 0, outcome.stderr
    plan = json.loads(outcome.stdout)
    assert [stage["name"] for stage in plan["stages"]] == ["data", "teacher", "search", "student", "evaluation", "registry", "serving"]
    assert plan["warnings"] == []


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("pipeline", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_example_runs(commands: Commands, pipeline: Path) -> None:
    store = ("--store", commands.env["FOUNDRY_STORE"])
    loose = ("--scale", "smoke", "--set", "gates={accuracy_drop_points: 100}", "--set", "serve.enabled=false")
    outcome = _fetched(commands, pipeline).run("run", pipeline.relative_to(ROOT), *loose, *store, "--json", timeout_s=600)
    assert outcome.code == 0, outcome.stderr[-3000:]
    record = json.loads(outcome.stdout)
    assert [stage["status"] for stage in record["stages"]] == ["done"] * 6
    data = record["stages"][0]["outputs"]
    assert (data["schema"]["classes"][0], data["splits"]["test"]["num_rows"]) == (FIRST_CLASS[pipeline.parent.name], 128)
