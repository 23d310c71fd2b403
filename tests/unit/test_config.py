import pickle
from pathlib import Path

import pytest
import yaml

from foundry_ray.config import PipelineConfig, StoreConfig, load_config, read_yaml, semantic, settings, store_config, validate
from foundry_ray.errors import ConfigError, OutOfRange, UnknownKey

SHIPPED = Path(__file__).parents[2] / "pipeline.yaml"


def test_the_shipped_pipeline_is_valid_and_keeps_its_numbers_at_small() -> None:
    config = load_config(SHIPPED)
    assert config.scale == "small"
    assert config.teacher.train.epochs == yaml.safe_load(SHIPPED.read_text())["teacher"]["train"]["epochs"]


@pytest.mark.parametrize(
    ("override", "error", "message", "hint"),
    [
        ("serch.space=x", UnknownKey, "serch is no key", "did you mean `search`?"),
        ("search.budget.trails=3", UnknownKey, "search.budget.trails is no key", "did you mean `search.budget.trials`?"),
        ("search.budget.trials=0", OutOfRange, "search.budget.trials is 0, but must be greater than or equal to 1", "schema"),
        ("teacher.train.lr=fast", OutOfRange, "teacher.train.lr is 'fast', but must be a valid number", "schema"),
        ("search.scheduler.rungs=[3, 1]", OutOfRange, "rungs are \\[3, 1\\], but must rise", "schema"),
        ("student.epochs=4", OutOfRange, "rungs end at epoch 9 and student.epochs is 4", "schema"),
        ("scale=huge", OutOfRange, "scale is 'huge', but must be 'smoke', 'small' or 'full'", "schema"),
        ("teacher.workers", ConfigError, "wanted key=value", "--set"),
        ("name.x=1", ConfigError, "'name' is a value and not a section", "schema"),
    ],
)
def test_a_wrong_key_or_value_says_what_got_wanted_and_a_hint(override: str, error: type[ConfigError], message: str, hint: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load_config(SHIPPED, [override])
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_missing_file_names_the_command_that_writes_one() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist") as caught:
        load_config("nowhere.yaml")
    assert "foundry init" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not YAML at line"),
        ("- a", "holds a list, wanted a mapping"),
        ("# nothing", "is empty, wanted a mapping"),
        ("name: x", "data is missing"),
        ("name: x\nsearch: {budget: {trials: 3, trials: 4}}", "trials is there twice, again at line 2"),
    ],
)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "p.yaml")


def test_keys_that_are_merged_into_a_mapping_are_not_there_twice(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: &base {a: 1, b: 2}\nmine: {<<: *base, a: 3}\n")
    assert read_yaml(tmp_path / "a.yaml")["mine"] == {"a": 3, "b": 2}


@pytest.mark.parametrize("value", [".inf", ".nan"])
def test_a_number_is_finite_as_json_has_no_other(value: str) -> None:
    with pytest.raises(OutOfRange, match=r"search\.budget\.wall_time_s is (inf|nan), but must be"):
        load_config(SHIPPED, [f"search.budget.wall_time_s={value}"])


@pytest.mark.parametrize(("value", "message"), [("num_params <= 5", "must be a list"), ("3", "must be a list")])
def test_one_value_in_place_of_a_list_is_told_in_the_words_of_yaml(value: str, message: str) -> None:
    with pytest.raises(OutOfRange, match=message):
        load_config(SHIPPED, [f"search.constraints={value}"])


def test_smoke_shrinks_and_full_grows() -> None:
    smoke, small, full = (load_config(SHIPPED, scale=scale) for scale in ("smoke", "small", "full"))
    assert smoke.teacher.train.epochs < small.teacher.train.epochs < full.teacher.train.epochs
    assert smoke.search.budget.trials < small.search.budget.trials < full.search.budget.trials
    assert smoke.search.scheduler.rungs == (1,)


@pytest.mark.parametrize("kind", ["hyperband", "median", "pbt"])
def test_smoke_leaves_a_scheduler_what_it_compares_trials_at(kind: str) -> None:
    search = load_config(SHIPPED, [f"search.scheduler.kind={kind}"], scale="smoke").search
    assert search.scheduler.rungs == (1, 2)
    assert search.scheduler.population <= search.budget.trials


def test_smoke_caps_fractional_splits_too() -> None:
    split = load_config(SHIPPED, ["data.split={train: 0.7, val: 0.1, test: 0.2}"], scale="smoke").data.split
    assert (split.train, split.max_rows) == (0.7, 768)


def test_where_it_runs_does_not_enter_a_key_and_what_it_learns_does() -> None:
    config = load_config(SHIPPED)
    elsewhere = load_config(SHIPPED, ["teacher.workers=1", "teacher.max_failures=9", "search.budget.trials=99", "store=file:///tmp/x"])
    other = load_config(SHIPPED, ["teacher.train.lr=0.5"])
    assert semantic(config.teacher) == semantic(elsewhere.teacher)
    assert semantic(config.search) == semantic(elsewhere.search)
    assert semantic(config.teacher) != semantic(other.teacher)


def _fields(model: type, prefix: str = "") -> list[tuple[str, object]]:
    found = []
    for name, field in model.model_fields.items():
        found.append((prefix + name, field))
        if hasattr(field.annotation, "model_fields"):
            found += _fields(field.annotation, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize(("key", "field"), _fields(PipelineConfig), ids=lambda value: value if isinstance(value, str) else "")
def test_every_key_has_a_sentence(key: str, field: object) -> None:
    assert (field.description or "").endswith("."), key


def test_the_environment_is_read_in_one_place(tmp_path: Path) -> None:
    found = settings({"FOUNDRY_HOME": str(tmp_path), "RAY_ADDRESS": "h:1", "FOUNDRY_JOB": "1", "FOUNDRY_STORE": "s3://b/p"})
    assert (found.home, found.ray_address, found.is_inside_job, found.store.uri) == (tmp_path, "h:1", True, "s3://b/p")
    package = SHIPPED.parent / "foundry_ray"
    readers = {
        path.relative_to(package).as_posix() for path in package.rglob("*.py") if "os.environ" in path.read_text() or "os.getenv" in path.read_text()
    }
    assert {reader for reader in readers if not reader.startswith("testing/")} <= {"config/environment.py", "runtime/env.py"}


def test_a_tracking_uri_stays_in_its_process_and_out_of_sight() -> None:
    found = settings({"MLFLOW_TRACKING_URI": "http://me:hunter2@there"})
    assert found.mlflow_tracking_uri == "http://me:hunter2@there"
    assert "hunter2" not in repr(found) + repr(found.model_dump()) + repr([found.mlflow_tracking_uri])
    assert pickle.loads(pickle.dumps(found)) == found.model_copy(update={"mlflow_tracking_uri": None})
    assert settings({"MLFLOW_TRACKING_URI": ""}).mlflow_tracking_uri is None


def test_a_store_is_a_uri_or_a_section(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("name: a\ndata: {source: digits}\nstore: s3://b/p\n")
    assert load_config(path).store == StoreConfig(uri="s3://b/p")
    assert load_config(path, ["store.single_writer=true"]).store == StoreConfig(uri="s3://b/p", single_writer=True)
    assert load_config(path, ["store=embedded"]).store == StoreConfig()


def test_a_store_is_named_by_a_uri_a_store_file_or_a_pipeline(tmp_path: Path) -> None:
    alone, pipeline = tmp_path / "store.yaml", tmp_path / "pipeline.yaml"
    alone.write_text("uri: s3://b/p\nendpoint: https://minio.example:9000\n")
    pipeline.write_text("name: a\nstore: file:///x\n")
    assert [store_config(str(one)).uri for one in ("file:///y.yaml", alone, pipeline)] == ["file:///y.yaml", "s3://b/p", "file:///x"]


@pytest.mark.parametrize("key", ["endpoint", "proxy"])
def test_a_url_of_the_store_holds_no_credentials(key: str) -> None:
    with pytest.raises(OutOfRange, match="holds credentials, which would end up in logs"):
        validate(StoreConfig, {"uri": "s3://b", key: "https://me:secret@host"}, where="store")
