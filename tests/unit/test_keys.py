"""What a stage's key hangs on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from foundry_ray import keys
from foundry_ray.config import ExportConfig, PipelineConfig, load_config
from foundry_ray.runlog import plugin_source_sha256
from foundry_ray.search.space import load_space
from foundry_ray.testing import samples
from foundry_ray.testing.samples import model
from foundry_ray.types import DatasetRef, ImageSchema, Preprocessing

_SOURCE = "def make():\n    return None  # {0}\n\n\nclass Made:\n    word = {0}\n"
Write = Callable[[int], None]
SCHEMA = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("a", "b"))
DATASET = DatasetRef(key="d", fingerprint="f" * 64, task="mine", splits={}, schema=SCHEMA, preprocessing=Preprocessing(mean=(0.0,), std=(1.0,)))
CONFIG = PipelineConfig.model_validate({"name": "p", "data": {"source": "mnist_5k"}, "task": "mine"})


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes the source of a third party's module, and forgets what was imported of it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(word: int) -> None:
        (tmp_path / "their_plugin.py").write_text(_SOURCE.format(word))
        sys.modules.pop("their_plugin", None)

    yield write
    sys.modules.pop("their_plugin", None)


@pytest.mark.parametrize("name", ["make", "Made"])
def test_the_source_of_a_plugin_counts_whether_it_is_a_class_or_a_function(write: Write, name: str) -> None:
    found = set()
    for word in (1, 2):
        write(word)
        found.add(plugin_source_sha256(EntryPoint(name="mine", value=f"their_plugin:{name}", group="foundry_ray.tasks").load()))
    assert len(found) == 2


@pytest.mark.parametrize("group", ["tasks", "compressors"])
def test_a_changed_plugin_is_another_study_although_the_teacher_is_the_same(write: Write, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(**wanted: str) -> list[EntryPoint]:
        entry = EntryPoint(name="mine", value="their_plugin:Made", group=f"foundry_ray.{group}")
        return [entry] if wanted["group"] == entry.group and wanted.get("name", entry.name) == entry.name else []

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    found = set()
    for word in (1, 2):
        write(word)
        found.add(keys.study(CONFIG, DATASET, model())[0])
    assert len(found) == 2


@pytest.mark.parametrize("section", [{"model": {"family": "import:their_plugin:make"}}, {"train": {"optimizer": "import:their_plugin:Made"}}])
def test_a_changed_module_of_the_users_own_is_another_teacher(write: Write, section: dict[str, object]) -> None:
    config = PipelineConfig.model_validate({"name": "p", "data": {"source": "mnist_5k"}, "teacher": section})
    found = set()
    for word in (1, 2, 2):
        write(word)
        found.add(keys.teacher(config, DATASET))
    assert len(found) == 2


def _config(**search: object) -> PipelineConfig:
    return PipelineConfig.model_validate({"name": "p", "data": {"source": "mnist_5k"}, "search": search})


@pytest.mark.parametrize(
    "search",
    [
        {"budget": {"trials": 99, "wall_time_s": 5.0}},
        {"choose": "knee"},
        {"trial": {"cpus": 2.0}},
        {"latency": {"device": "raspberry"}},
        {"scheduler": {"min_results": 9, "population": 3}},
    ],
)
def test_a_study_goes_on_whatever_it_may_cost_and_wherever_it_is_measured(search: dict[str, object]) -> None:
    (study, _), (same, _) = keys.study(_config(), DATASET, model()), keys.study(_config(**search), DATASET, model())
    assert same == study


@pytest.mark.parametrize(
    "search",
    [
        {"sampler": "random"},
        {"scheduler": {"rungs": [1, 9]}},
        {"scheduler": {"kind": "hyperband"}},
        {"extends": ["0" * 32]},
        {"latency": {"threads": 2}},
        {"constraints": ["num_params <= 10"]},
    ],
)
def test_what_changes_the_trials_begins_another_study(search: dict[str, object]) -> None:
    assert keys.study(_config(**search), DATASET, model())[0] != keys.study(_config(), DATASET, model())[0]


def test_the_result_of_a_study_hangs_on_where_it_is_measured() -> None:
    here, there = (keys.study(_config(latency={"device": device}), DATASET, model()) for device in ("", "raspberry"))
    assert here[0] == there[0]
    assert here[1] != there[1]


def test_studies_that_train_alike_have_one_training_key() -> None:
    wider = _config(sampler="random", budget={"trials": 99}, scheduler={"rungs": [1, 9]})
    assert keys.training(wider) == keys.training(_config())
    longer = _config().model_copy(update={"student": _config().student.model_copy(update={"epochs": 60})})
    assert keys.training(longer) != keys.training(_config())


def test_a_configuration_read_from_its_record_is_of_the_same_study() -> None:
    recorded = PipelineConfig.model_validate(CONFIG.model_dump(mode="json"))
    assert keys.study(recorded, DATASET, model()) == keys.study(CONFIG, DATASET, model())
    assert load_space("joint_cnn", recorded.search).constraints == ("num_params <= 100000",)


def test_the_pipeline_with_the_whole_toolbox_has_the_teacher_of_the_other_one() -> None:
    folder = Path(__file__).parents[2] / "examples" / "fashion_mnist"
    plain, toolbox = (load_config(folder / name) for name in ("pipeline.yaml", "toolbox.yaml"))
    assert (toolbox.data, toolbox.task, toolbox.teacher, toolbox.seed) == (plain.data, plain.task, plain.teacher, plain.seed)


def test_a_student_that_is_exported_otherwise_is_another_and_one_that_is_not_keeps_its_key() -> None:
    study, changed = samples.study(), {"export": {"torch_program": True}}
    key = keys.student(CONFIG, study)
    assert keys.student(CONFIG.model_copy(update={"export": ExportConfig()}), study) == key
    assert keys.student(PipelineConfig.model_validate({**CONFIG.model_dump(), **changed}), study) != key
