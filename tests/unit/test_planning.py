"""What `foundry plan` says before anything starts, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from foundry_ray import keys
from foundry_ray.config import PipelineConfig, Settings
from foundry_ray.errors import ConfigError, DataError, FoundryError, OutOfRange, ResourcesUnavailable, SearchSpaceError
from foundry_ray.planning import check, check_data, check_run, check_stages, plan
from foundry_ray.runlog import StageResult, commit_result, save_run
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import DatasetRef, ImageSchema, RunRecord, SplitInfo, TokenSchema, to_json

SCHEMA = ImageSchema(channels=1, height=4, width=4, dtype="uint8", classes=("cat", "dog"))


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A folder of images: only the first is looked at."""
    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / "images" / name / "1.png")
    return str(tmp_path / "images")


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    path = tmp_path / "text.npz"
    np.savez(path, inputs=np.arange(120).reshape(20, 6) % 7, vocab_size=7)
    return str(path)


def _config(source: str, teacher: dict[str, object] | None = None, **fields: object) -> PipelineConfig:
    split = {"train": 16, "val": 2, "test": 2}
    small = {"workers": 1, "train": {"batch_size": 4, "epochs": 3}}
    teacher = {**small, **(teacher or {})}
    document = {"name": "p", "data": {"source": source, "split": split}, "teacher": teacher, "student": {"batch_size": 4}, **fields}
    return PipelineConfig.model_validate(document)


def _prepare(store: MemoryStore, config: PipelineConfig, settings: Settings) -> None:
    """As if a run had prepared the data."""
    splits = {name: SplitInfo(num_rows=rows, num_bytes=rows) for name, rows in (("train", 14), ("val", 2), ("test", 2))}
    dataset = DatasetRef(key="data/d", fingerprint="f", task="image_classification", splits=splits, schema=SCHEMA)
    result = StageResult(outputs=to_json(dataset), run_id="p-1", created_at="", duration_s=1.0, versions={})
    commit_result(store, "data", keys.data(config, settings), result)


def test_a_plan_says_how_the_teacher_trains(source: str, settings: Settings) -> None:
    teacher = {"workers": 2, "min_workers": 1, "micro_batch_size": 1, "deepspeed": {"zero_stage": 2}, "train": {"batch_size": 4, "precision": "bf16"}}
    training = plan(_config(source, teacher), store=None, settings=settings).training
    assert (training.engine, training.zero_stage, training.precision) == ("deepspeed", 2, "bf16")
    assert (training.num_workers, training.min_workers, training.micro_batch_size, training.accumulation) == (2, 1, 1, 2)
    assert training.num_steps is None


def test_steps_are_known_once_the_data_is_prepared(source: str, settings: Settings, store: MemoryStore) -> None:
    config = _config(source)
    _prepare(store, config, settings)
    training = plan(config, store=store, settings=settings).training
    assert (training.engine, training.zero_stage, training.steps_per_epoch, training.num_steps) == ("torch", None, 3, 9)


def test_a_stage_is_told_which_of_its_own_keys_changed(source: str, settings: Settings, store: MemoryStore) -> None:
    before = _config(source)
    _prepare(store, before, settings)
    save_run(store, RunRecord(run_id="p-20260101-000000-abcd", pipeline="p", config=before.model_dump(mode="json"), versions={}))

    def reasons(**fields: object) -> dict[str, str]:
        return {stage.name: stage.reason for stage in plan(_config(source, **fields), store=store, settings=settings).stages}

    assert reasons()["teacher"] == "no result lies under this key"
    slower = reasons(teacher={"train": {"batch_size": 4, "lr": 1e-5}}, gates={"accuracy_drop_points": 9.0})
    assert slower["teacher"] == "changed since the last run: teacher.train.epochs, teacher.train.lr"
    assert reasons(seed=7)["data"] == "changed since the last run: seed"
    assert reasons(gates={"accuracy_drop_points": 9.0})["teacher"] == "no result lies under this key"


def test_a_plan_names_what_a_run_from_here_would_refuse_and_ignore(source: str, settings: Settings) -> None:
    teacher = {"cpus_per_worker": 1000, "deepspeed": {"zero_stage": 3}}
    refused, ignored = plan(_config(source, teacher), store=None, settings=settings).warnings
    assert "`foundry run` would refuse this: teacher.workers is 1 and teacher.cpus_per_worker is 1000" in refused
    assert "teacher.deepspeed.zero_stage is ignored" in ignored


def test_a_search_over_token_ids_is_refused_and_a_teacher_of_them_is_not(source: str, settings: Settings) -> None:
    schema = TokenSchema(length=6, vocab_size=7)
    check_run(_config(source), schema, settings, until="teacher")
    with pytest.raises(ConfigError, match="the search for a student got tokens with a label at each token") as caught:
        check_run(_config(source), schema, settings)
    assert "--until teacher" in caught.value.hint


def test_a_run_refuses_more_workers_than_this_machine_holds_and_starts_nothing(source: str, settings: Settings) -> None:
    config = _config(source, {"workers": 1000, "train": {"batch_size": 1000}}, data={"source": source, "split": {"train": 0.8}})
    with pytest.raises(ResourcesUnavailable, match=r"teacher\.workers is 1000 .* needs 1000 CPUs, but this machine has \d+"):
        check_run(config, check_data(config, settings), settings, until="teacher")
    assert not settings.home.exists()


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"trial": {"cpus": 1000}}, "one trial takes 1000 CPU"),
        ({"trial": {"workers": 1000}}, "one trial takes 1000 CPU"),
        ({"latency": {"device": "npu"}}, "search.latency.device is 'npu', but the local head has no such resource"),
    ],
)
def test_a_run_refuses_trials_that_this_machine_cannot_hold_before_it_trains_their_teacher(
    source: str, settings: Settings, search: dict[str, object], message: str
) -> None:
    config = _config(source, search=search)
    with pytest.raises(FoundryError) as caught:
        check_run(config, check_data(config, settings), settings)
    assert message in caught.value.message
    assert caught.value.exit_code == 2
    check_run(config, check_data(config, settings), settings, until="teacher")
    elsewhere = config.model_copy(update={"cluster": "10.0.0.5:6379"})
    check_run(elsewhere, check_data(elsewhere, settings), settings)


def test_another_cluster_is_not_judged_by_this_machine(source: str, settings: Settings) -> None:
    config = _config(source, {"cpus_per_worker": 1000}, cluster="10.0.0.5:6379")
    check_run(config, check_data(config, settings), settings, until="teacher")
    assert "workers' devices" in plan(config, store=None, settings=settings).training.precision


@pytest.mark.parametrize(
    ("error", "changes", "message"),
    [
        (OutOfRange, {"teacher": {"train": {"batch_size": 32}}}, "batch_size is 32, but the training split has 16 rows"),
        (OutOfRange, {"teacher": {"model": {"family": "vgg"}}}, "teacher.model.family is 'vgg', but must be one of"),
        (ConfigError, {"teacher": {"model": {"family": "import:no_such_package:make"}}}, "there is no module 'no_such_package'"),
        (ConfigError, {"teacher": {"engine": "torch", "workers": 2}}, "teacher.engine is torch and teacher.workers is 2"),
    ],
)
def test_what_is_wrong_anywhere_is_refused(source: str, error: type[FoundryError], changes: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(error) as caught:
        check(_config(source, **changes))
    assert message in caught.value.message
    assert caught.value.hint


def test_a_space_that_asks_for_more_than_the_teacher_is_refused_where_students_are_made(source: str) -> None:
    small = _config(source, {"model": {"width": 8, "depth": 1}})
    with pytest.raises(SearchSpaceError, match="width goes up to 16, but the teacher's is 8"):
        check(small)
    check(small, until="teacher")


def test_data_that_the_task_or_the_model_cannot_take_is_refused(tokens: str, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task image_classification got sequences of 6 token ids .* wanted images"):
        check_data(_config(tokens), settings)
    with pytest.raises(ConfigError, match=r"model family resnet got sequences of 6 token ids .* wanted images"):
        check_data(_config(tokens, task="causal_lm"), settings)
    with pytest.raises(DataError, match=r"nowhere\.npz is no file"):
        check_data(_config(str(tmp_path / "nowhere.npz")), settings)


def test_an_option_that_names_no_stage_lists_them() -> None:
    with pytest.raises(ConfigError, match=r"--until got 'teach', wanted one of data, teacher"):
        check_stages(["teach"], option="--until")


def test_planning_imports_neither_torch_nor_ray(source: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from foundry_ray.config import PipelineConfig, Settings; from foundry_ray.planning import plan; "
        f"config = PipelineConfig(name='p', data={{'source': {source!r}}}); "
        f"plan(config, store=None, settings=Settings(home=Path({str(tmp_path / 'home')!r}))); "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'ray', 'torch', 'deepspeed'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
