"""Bad input, as a user meets it: the exit code, one message with what, got, wanted and a hint, and no traceback."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from foundry_ray import assets
from foundry_ray.testing.commands import Commands, Outcome


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    (tmp_path / "pipeline.yaml").write_text((assets.root() / "pipeline.yaml").read_text())
    commands = Commands(home=tmp_path / "home", folder=tmp_path)
    yield commands
    commands.stop_services()


def _folder_of_images(folder: Path, *, classes: int = 2, rows: int = 12) -> Path:
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for row in range(rows):
            image.fromarray(random.integers(0, 255, (16, 16), dtype=np.uint8)).save(folder / f"class{label}" / f"{row}.png")
    return folder


def _refused(outcome: Outcome, code: int, *parts: str) -> None:
    assert outcome.code == code, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "hint:" in outcome.stderr
    for part in parts:
        assert part in outcome.stderr


def test_an_unknown_key_names_the_nearest_valid_one(commands: Commands) -> None:
    _refused(commands.run("run", "pipeline.yaml", "--set", "teacher.train.epoch=3"), 2, "teacher.train.epoch is no key", "`teacher.train.epochs`")


def test_a_value_out_of_range_names_the_range(commands: Commands) -> None:
    _refused(commands.run("run", "pipeline.yaml", "--set", "search.budget.trials=0"), 2, "search.budget.trials is 0", "greater than or equal to 1")


def test_a_missing_pipeline_names_init(commands: Commands) -> None:
    _refused(commands.run("run", "nowhere.yaml"), 2, "nowhere.yaml does not exist", "foundry init")


def test_a_condition_on_no_parameter_is_refused(commands: Commands) -> None:
    space = yaml.safe_load((assets.root() / "search_spaces" / "joint_cnn.yaml").read_text())
    name = next(iter(space["params"]))
    space["params"][name]["when"] = {"no_such_parameter": [1]}
    (commands.folder / "space.yaml").write_text(yaml.safe_dump(space))
    _refused(commands.run("run", "pipeline.yaml", "--set", "search.space=./space.yaml"), 2, "no_such_parameter")


def test_absent_data_names_the_command_that_fetches_it(commands: Commands) -> None:
    _refused(commands.run("run", "pipeline.yaml", "--set", "data.source=fashion_mnist"), 2, "fashion_mnist", "foundry data fetch fashion_mnist")


def test_more_workers_than_the_machine_has_says_both_numbers(commands: Commands) -> None:
    assert commands.run("data", "fetch", "mnist_5k").code == 0
    outcome = commands.run(
        "run", "pipeline.yaml", "--scale", "smoke", "--set", "teacher.workers=64", "--set", f"store=file://{commands.folder}/store"
    )
    _refused(outcome, 2, "64")


def test_a_corrupt_image_is_named(commands: Commands) -> None:
    folder = _folder_of_images(commands.folder / "images")
    (folder / "class1" / "3.png").write_bytes(b"not a png")
    outcome = commands.run(
        "run", "pipeline.yaml", "--scale", "smoke", "--set", "data.source=./images", "--set", f"store=file://{commands.folder}/store"
    )
    _refused(outcome, 2, "class1/3.png")


def test_a_truncated_data_file_is_refused_and_named(commands: Commands) -> None:
    assert commands.run("data", "fetch", "mnist_5k").code == 0
    path = commands.home / "datasets" / "mnist_5k" / "mnist_5k.csv.gz"
    path.write_bytes(path.read_bytes()[:1000])
    _refused(commands.run("run", "pipeline.yaml", "--set", f"store=file://{commands.folder}/store"), 2, "mnist_5k.csv.gz")


def test_an_unreachable_store_is_named(commands: Commands) -> None:
    env = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    _refused(commands.run("runs", "list", "--store", "s3://bucket/prefix", **env), 4, "127.0.0.1:9")


def test_wrong_store_credentials_are_denied_and_not_shown(commands: Commands) -> None:
    document = commands.run("store", "serve", "--json").document
    assert isinstance(document, dict)
    env = {"AWS_ENDPOINT_URL": str(document["endpoint"]), "AWS_ACCESS_KEY_ID": "foundry", "AWS_SECRET_ACCESS_KEY": "wrong-secret-of-mine"}
    outcome = commands.run("runs", "list", "--store", "s3://foundry/prefix", **env)
    _refused(outcome, 4, "s3://foundry/prefix")
    assert "wrong-secret-of-mine" not in outcome.stderr


def test_an_unreachable_cluster_is_named(commands: Commands) -> None:
    assert commands.run("data", "fetch", "mnist_5k").code == 0
    store = f"store=file://{commands.folder}/store"
    _refused(commands.run("run", "pipeline.yaml", "--scale", "smoke", "--address", "127.0.0.1:9", "--set", store), 4, "127.0.0.1:9")
    _refused(commands.run("jobs", "list", "--address", "http://127.0.0.1:9"), 4, "127.0.0.1:9")


def test_a_wrong_token_is_denied(commands: Commands) -> None:
    document = commands.run("cluster", "up", "--json").document
    assert isinstance(document, dict)
    (commands.folder / "token").write_text("0" * 64)
    outcome = commands.run("jobs", "list", "--address", str(document["dashboard_url"]), FOUNDRY_TOKEN_PATH=str(commands.folder / "token"))
    _refused(outcome, 4, "token")


def test_an_error_is_one_json_document_where_json_is_asked_for(commands: Commands) -> None:
    outcome = commands.run("plan", "nowhere.yaml", "--json")
    assert outcome.document == {
        "error": "ConfigError",
        "message": "nowhere.yaml does not exist.",
        "hint": "`foundry init` writes a pipeline.yaml to start from.",
        "exit_code": 2,
    }
