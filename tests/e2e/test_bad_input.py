"""Bad input, as a user meets it: the exit code, one message with what, got, wanted and a hint, and no traceback."""

import gzip
import hashlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from foundry_ray import assets
from foundry_ray.cli.main import app
from foundry_ray.cli.output import run_app
from foundry_ray.data import registry
from foundry_ray.testing.commands import Commands, Outcome
from foundry_ray.types import ImageSchema

NOBODY = "127.0.0.1:9"


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """One home, and a folder with the shipped pipeline and good images."""
    folder = tmp_path_factory.mktemp("user")
    commands = Commands(home=folder / "home", folder=folder, env={"FOUNDRY_STORE": f"file://{folder}/store"})
    assert commands.run("init", ".").code == 0
    _images(folder / "images")
    yield commands
    commands.stop_services()


@pytest.fixture(scope="module")
def head(commands: Commands) -> dict[str, str]:
    """The running head of that home."""
    document = commands.run("cluster", "up", "--json").document
    assert isinstance(document, dict)
    return {"address": str(document["address"]), "dashboard_url": str(document["dashboard_url"])}


@pytest.fixture
def stranger(commands: Commands, tmp_path: Path) -> Commands:
    """Somebody else on the same machine, with a token of his own."""
    token = tmp_path / "token"
    token.write_text("0" * 64)
    return replace(commands, home=tmp_path / "home", env={"FOUNDRY_TOKEN_PATH": str(token)})


def _images(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for number in range(120):
        path = folder / f"class{number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(random.integers(0, 255, (16, 16), dtype=np.uint8)).save(path)


def _words(commands: Commands, *settings: str, source: str = "./images") -> tuple[str, ...]:
    small = (f"data.source={source}", "data.split={train: 80, val: 20, test: 20}", f"store=file://{commands.folder}/store")
    return "run", "pipeline.yaml", "--scale", "smoke", *(part for one in (*small, *settings) for part in ("--set", one))


def _run(commands: Commands, *settings: str, source: str = "./images", more: tuple[str, ...] = ()) -> Outcome:
    return commands.run(*_words(commands, *settings, source=source), *more)


def _refused(outcome: Outcome, code: int, got: str, wanted: str, hint: str) -> None:
    lines = [line for line in outcome.stderr.splitlines() if line.strip()]
    assert outcome.code == code, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert [line[:6] for line in lines].count("error:") == 1, outcome.stderr
    assert lines[-1].startswith("hint:"), outcome.stderr
    message, advice = outcome.stderr.rpartition("error:")[2].rsplit("hint:", 1)
    assert got in message
    assert wanted in message
    assert hint in advice


def test_an_unknown_key_names_the_nearest_valid_one(commands: Commands) -> None:
    _refused(_run(commands, "teacher.train.epoch=3"), 2, "teacher.train.epoch is no key", "it has epochs, batch_size", "`teacher.train.epochs`")


@pytest.mark.parametrize(
    ("setting", "got", "wanted"),
    [
        ("search.budget.trials=0", "search.budget.trials is 0", "greater than or equal to 1"),
        ("teacher.train.lr=fast", "teacher.train.lr is 'fast'", "must be a valid number"),
        ("search.scheduler.rungs=[3, 1]", "rungs are [3, 1]", "must rise strictly"),
    ],
)
def test_a_value_out_of_range_names_the_range(commands: Commands, setting: str, got: str, wanted: str) -> None:
    _refused(_run(commands, setting), 2, got, wanted, "`foundry schema`")


def test_missing_files_are_named_with_what_makes_them(commands: Commands) -> None:
    _refused(commands.run("run", "nowhere.yaml"), 2, "nowhere.yaml", "does not exist", "`foundry init`")
    _refused(_run(commands, "search.space=./nowhere.yaml"), 2, "search.space is './nowhere.yaml'", "one of the shipped search_spaces", "")
    _refused(_run(commands, source="./nowhere"), 2, "'./nowhere'", "wanted one of mnist_5k", "an existing folder")


def test_a_condition_on_no_parameter_is_refused(commands: Commands) -> None:
    space = yaml.safe_load((assets.root() / "search_spaces" / "joint_cnn.yaml").read_text())
    name = next(iter(space["params"]))
    space["params"][name]["when"] = {"no_such_parameter": [1]}
    (commands.folder / "space.yaml").write_text(yaml.safe_dump(space))
    _refused(_run(commands, "search.space=./space.yaml"), 2, "names no_such_parameter", f"params.{name}.when", "parameters here: depth")


def test_absent_data_names_the_command_that_fetches_it(commands: Commands) -> None:
    if Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("fashion_mnist is installed on this machine, so it is not absent")
    _refused(_run(commands, source="fashion_mnist"), 2, "fashion_mnist is not on this machine", "train-images", "`foundry data fetch fashion_mnist`")


@pytest.fixture
def newcomer(commands: Commands, tmp_path: Path) -> Commands:
    """The same folder, with a home and a store that nothing has touched, and modules of the user's own on the path."""
    (tmp_path / "modules").mkdir()
    return replace(commands, home=tmp_path / "home", env={"FOUNDRY_STORE": f"file://{tmp_path}/store", "PYTHONPATH": str(tmp_path / "modules")})


@pytest.fixture
def run_here(newcomer: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """The newcomer's command line in this process, for what ends at once."""

    def run(*settings: str, source: str = "./images") -> Outcome:
        monkeypatch.setenv("FOUNDRY_HOME", str(newcomer.home))
        monkeypatch.chdir(newcomer.folder)
        monkeypatch.syspath_prepend(newcomer.env["PYTHONPATH"])
        monkeypatch.setattr("sys.argv", ["foundry", *_words(newcomer, *settings, f"store={newcomer.env['FOUNDRY_STORE']}", source=source)])
        code = run_app(app)
        return Outcome(code=code, stdout="", stderr=capsys.readouterr().err)

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


def _nothing_started(newcomer: Commands) -> None:
    assert not newcomer.home.exists(), "no head and no service was started, and no event was logged"
    assert not Path(newcomer.env["FOUNDRY_STORE"].removeprefix("file://")).exists(), "nothing was stored"


@pytest.mark.parametrize(
    ("settings", "got", "wanted", "hint"),
    [
        (("data.split={train: 80, val: 0, test: 20}",), "data.split.val is 0", "greater than 0", "`foundry schema`"),
        (("teacher.train.optimizer=adam",), "optimizer is 'adam'", "adamw", "adamw"),
        (("teacher.train.batch_size=30", "teacher.workers=4"), "batch_size is 30", "a multiple of the 4 workers", "set it to 28"),
        (("teacher.micro_batch_size=5",), "teacher.micro_batch_size is 5", "a divisor of 16", "set it to 4"),
        (("teacher.workers=2", "teacher.min_workers=3"), "min_workers is 3 and workers is 2", "the range is empty", "`foundry schema`"),
        (("data.split={train: 20, val: 20, test: 20}",), "batch_size is 32", "the training split has 20 rows", "20 or less"),
        (
            ("teacher.train.optimizer=adafactor",),
            "adafactor and teacher.deepspeed.zero_stage is 1",
            "wanted stage 0",
            "`teacher.deepspeed.zero_stage: 0`",
        ),
        (("teacher.deepspeed={zero_stage: 2, offload_params: {device: cpu}}",), "zero_stage is 2", "wanted 3", "`teacher.deepspeed.zero_stage: 3`"),
        (
            ("teacher.deepspeed={extra: {zero_optimisation: {}}}",),
            "extra.zero_optimisation is no key",
            "wanted one that it has",
            "`zero_optimization`",
        ),
        (("teacher.engine=torch",), "teacher.engine is torch and teacher.workers is 2", "wanted one worker", "`teacher.workers: 1`"),
        (
            ("teacher.workers=32", "teacher.cpus_per_worker=8"),
            "workers is 32 and teacher.cpus_per_worker is 8, which needs 256 CPUs",
            "but this machine has",
            "lower `teacher.workers`",
        ),
        (("teacher.model.family=import:no_such_package.models:make",), "no module 'no_such_package'", "one that can be imported", "PYTHONPATH"),
        (("teacher.train.optimizer=import:json:dumpss",), "'json' has no 'dumpss'", "a name that it defines", "dumps"),
    ],
    ids=lambda value: value[0].partition("=")[0] if isinstance(value, tuple) else "",
)
def test_a_training_that_could_not_work_is_refused_and_nothing_starts(
    newcomer: Commands, run_here: Callable[..., Outcome], settings: tuple[str, ...], got: str, wanted: str, hint: str
) -> None:
    _refused(run_here(*settings), 2, got, wanted, hint)
    _nothing_started(newcomer)


def test_a_user_module_whose_import_fails_names_the_place_and_the_error(newcomer: Commands, run_here: Callable[..., Outcome]) -> None:
    (Path(newcomer.env["PYTHONPATH"]) / "broken_models.py").write_text("import json\n\nSIZE = 1 / 0\n")
    outcome = run_here("teacher.model.family=import:broken_models:make")
    _refused(outcome, 2, "broken_models.py:3 with ZeroDivisionError", "a module that imports", "`python -c 'import broken")
    _nothing_started(newcomer)


@pytest.mark.parametrize(
    ("inputs", "got", "wanted"),
    [
        (np.zeros((4, 6)), "inputs of dtype float64", "wanted integers"),
        (np.zeros(24, dtype=np.int64), "inputs of shape (24,)", "wanted (blocks, tokens)"),
        (np.full((4, 6), 9), "inputs[0, 0] = 9", "wanted 0..6"),
    ],
)
def test_token_ids_of_the_wrong_type_shape_or_range_are_named(
    newcomer: Commands, run_here: Callable[..., Outcome], tmp_path: Path, inputs: np.ndarray, got: str, wanted: str
) -> None:
    np.savez(tmp_path / "text.npz", inputs=inputs, vocab_size=7)
    _refused(run_here("task=causal_lm", source=str(tmp_path / "text.npz")), 2, got, wanted, "np.savez")
    _nothing_started(newcomer)


def test_an_image_of_another_shape_is_named(run_here: Callable[..., Outcome], tmp_path: Path) -> None:
    _images(tmp_path / "photos")
    pytest.importorskip("PIL.Image").fromarray(np.zeros((8, 16), dtype=np.uint8)).save(tmp_path / "photos" / "class0" / "02.png")
    outcome = run_here(source=str(tmp_path / "photos"))
    _refused(outcome, 2, "02.png (row 1) has shape (1, 8, 16)", "wanted (1, 16, 16) as", "convert the images to one size")


def test_a_model_whose_outputs_do_not_fit_the_labels_is_refused_before_its_first_step(newcomer: Commands) -> None:
    module = Path(newcomer.env["PYTHONPATH"]) / "wide_models.py"
    module.write_text("from torch import nn\n\ndef make(schema):\n    return nn.Sequential(nn.Flatten(), nn.Linear(256, 5))\n")
    family = "teacher.model={family: 'import:wide_models:make'}"
    outcome = _run(newcomer, family, "teacher.workers=1", f"store={newcomer.env['FOUNDRY_STORE']}", more=("--until", "teacher"))
    _refused(outcome, 2, "Sequential gives outputs of shape (2, 5)", "wanted (2, 2): rows, classes", "`teacher.model.family`")
    store = Path(newcomer.env["FOUNDRY_STORE"].removeprefix("file://"))
    assert not list(store.glob("checkpoints/**/manifest.json")), "nothing was trained"
    assert not (newcomer.home / "ray").exists(), "no head was started"


def test_more_workers_than_the_cluster_has_says_both_numbers(commands: Commands, head: dict[str, str]) -> None:
    outcome = _run(commands, "teacher.workers=32", "teacher.cpus_per_worker=8")
    _refused(outcome, 2, "teacher.workers needs 256 CPU", "the cluster has ", "lower teacher.workers")


def test_a_corrupt_image_is_named(commands: Commands) -> None:
    _images(commands.folder / "broken")
    (commands.folder / "broken" / "class1" / "03.png").write_bytes(b"not a png")
    _refused(_run(commands, source="./broken"), 2, "class1/03.png", "no readable image", "`data.clean.corrupt: drop`")


def test_a_truncated_data_file_is_refused_and_named(commands: Commands) -> None:
    commands.fetch("mnist_5k")
    path = commands.home / "datasets" / "mnist_5k" / "mnist_5k.csv.gz"
    path.write_bytes(path.read_bytes()[:1000])
    _refused(_run(commands, source="mnist_5k"), 2, "mnist_5k.csv.gz (1000 bytes)", "it was cut short or changed", "`foundry data fetch mnist_5k`")


def test_a_label_outside_the_classes_is_named(newcomer: Commands, run_here: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    data = gzip.compress(b"".join(f"0,1,2,{number},{7 if number == 5 else number % 2}\n".encode() for number in range(20)))
    place = newcomer.home / "datasets" / "tiny"
    place.mkdir(parents=True)
    (place / "tiny.csv.gz").write_bytes(data)
    schema = ImageSchema(channels=1, height=2, width=2, dtype="uint8", classes=("no", "yes"))
    files = {"tiny.csv.gz": hashlib.sha256(data).hexdigest()}
    tiny = registry.Registered(name="tiny", installer="pip", package="none", folder="none/none", files=files, format="csv", schema=schema)
    monkeypatch.setattr(registry, "_CATALOGUE", (tiny,))
    _refused(run_here(source="tiny"), 2, "row 5 has the label 7", "a class number in 0..1", "correct the file")


def test_an_unreachable_store_is_named(commands: Commands) -> None:
    env = {"AWS_ENDPOINT_URL": f"http://{NOBODY}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    _refused(commands.run("runs", "list", "--store", "s3://bucket/prefix", **env), 4, NOBODY, "did not answer", "AWS_ENDPOINT_URL")


def test_wrong_store_credentials_are_denied_and_not_shown(commands: Commands) -> None:
    document = commands.run("store", "serve", "--json").document
    assert isinstance(document, dict)
    env = {"AWS_ENDPOINT_URL": str(document["endpoint"]), "AWS_ACCESS_KEY_ID": "foundry", "AWS_SECRET_ACCESS_KEY": "wrong-secret-of-mine"}
    outcome = commands.run("runs", "list", "--store", "s3://foundry/prefix", **env)
    _refused(outcome, 4, "s3://foundry/prefix", "refused", "AWS_SECRET_ACCESS_KEY")
    assert "wrong-secret-of-mine" not in outcome.stderr + outcome.stdout


def test_an_unreachable_cluster_is_named(commands: Commands) -> None:
    _refused(_run(commands, more=("--address", NOBODY)), 4, NOBODY, "No Ray cluster answers", "check the address")
    _refused(commands.run("jobs", "list", "--address", f"http://{NOBODY}"), 4, NOBODY, "No cluster answers", "check the address")
    submitted = commands.run("submit", "pipeline.yaml", "--address", f"http://{NOBODY}")
    _refused(submitted, 4, NOBODY, "No cluster answers", "check the address")


def test_a_wrong_token_is_denied_and_not_shown(stranger: Commands, head: dict[str, str]) -> None:
    asked = stranger.run("jobs", "list", "--address", head["dashboard_url"])
    _refused(asked, 4, head["dashboard_url"], "refuses its token", "FOUNDRY_TOKEN_PATH")
    submitted = stranger.run("submit", "pipeline.yaml", "--address", head["dashboard_url"])
    _refused(submitted, 4, head["dashboard_url"], "refuses its token", "FOUNDRY_TOKEN_PATH")
    ran = _run(stranger, more=("--address", head["address"]))
    _refused(ran, 4, head["address"], "refuses the token", "FOUNDRY_TOKEN_PATH")
    assert "0" * 64 not in asked.stderr + submitted.stderr + ran.stderr


def test_an_error_is_one_json_document_where_json_is_asked_for(commands: Commands) -> None:
    outcome = commands.run("plan", "nowhere.yaml", "--json")
    assert outcome.document == {
        "error": "ConfigError",
        "message": "nowhere.yaml does not exist.",
        "hint": "`foundry init` writes a pipeline.yaml to start from.",
        "exit_code": 2,
    }
