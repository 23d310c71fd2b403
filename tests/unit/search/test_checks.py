from __future__ import annotations

from pathlib import Path

import pytest

from foundry_ray.config import PipelineConfig
from foundry_ray.errors import ConfigError, FoundryError, OutOfRange, SearchSpaceError
from foundry_ray.search.checks import check_imported, check_runtimes, check_search, check_students, check_trials
from foundry_ray.types import ImageSchema, Schema, TokenSchema

IMPORTED = "import:somewhere:make"


def _config(folder: Path, space: str, **fields: object) -> PipelineConfig:
    path = folder / "mine.yaml"
    path.write_text(space)
    data = {"source": "mnist_5k", "split": {"train": 100, "val": 10, "test": 10}}
    return PipelineConfig.model_validate({"name": "p", "data": data, "search": {"space": str(path)}, **fields})


def _check(config: PipelineConfig) -> None:
    space = check_search(config)
    check_students(space, config)
    check_imported(space, config.teacher.model, where="mine.yaml")


@pytest.mark.parametrize(
    ("space", "fields", "error", "message"),
    [
        ("{width: {int: [8, 64]}, depth: {int: [1, 2]}}", {}, SearchSpaceError, "width goes up to 64, but the teacher's is 32"),
        ("{shrink.width: {int: [8, 32]}, shrink.depth: {choice: [1, 3]}}", {}, SearchSpaceError, "depth goes up to 3, but the teacher's is 2"),
        (
            "{lr: {float: [0.1, 1]}, batch_size: {choice: [64, 128]}}",
            {},
            SearchSpaceError,
            "batch_size goes up to 128, but the training split has 100",
        ),
        ("{lr: {float: [0.1, 1]}}", {"student": {"batch_size": 128}}, OutOfRange, "student.batch_size is 128, but the training split has 100 rows"),
        (
            "{width: {int: [8, 64]}, depth: {int: [1, 2]}}",
            {"teacher": {"model": {"family": IMPORTED}}},
            SearchSpaceError,
            "recipes shrink the teacher",
        ),
    ],
)
def test_students_that_the_teacher_cannot_have_are_refused(
    tmp_path: Path, space: str, fields: dict[str, object], error: type[FoundryError], message: str
) -> None:
    with pytest.raises(error) as caught:
        _check(_config(tmp_path, f"params: {space}", **fields))
    assert message in caught.value.message
    assert "wanted" in caught.value.message
    assert caught.value.hint


def test_students_up_to_the_teachers_own_size_are_fine(tmp_path: Path) -> None:
    _check(_config(tmp_path, "params: {width: {int: [8, 32]}, depth: {int: [1, 2]}, prune_ratio: {float: [0, 0.5]}}"))


def test_a_size_that_a_relation_rules_out_is_not_held_against_the_space(tmp_path: Path) -> None:
    params = "params: {width: {int: [8, 64], step: 8}, depth: {int: [1, 2]}}"
    _check(_config(tmp_path, f"{params}\nrelations: ['width <= 32']"))
    with pytest.raises(SearchSpaceError, match="width goes up to 40"):
        _check(_config(tmp_path, f"{params}\nrelations: ['width <= 40']"))


def test_an_imported_teacher_can_be_pruned_quantized_and_distilled(tmp_path: Path) -> None:
    space = (
        "params: {prune_ratio: {float: [0, 0.5]}, weight_bits: {choice: [8, 32]}, distil_alpha: {float: [0, 1]}, distil_temperature: {float: [1, 4]}}"
    )
    _check(_config(tmp_path, space, teacher={"model": {"family": IMPORTED}}))


def test_a_sampler_or_a_scheduler_that_does_not_suit_the_space_is_refused(tmp_path: Path) -> None:
    for search in ({"sampler": "cmaes"}, {"scheduler": {"kind": "median"}}):
        config = _config(tmp_path, "params: {lr: {float: [0.1, 1]}}", search={"space": str(tmp_path / "mine.yaml"), **search})
        with pytest.raises(ConfigError, match="objectives"):
            check_search(config)


def test_a_policy_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    config = _config(tmp_path, "params: {lr: {float: [0.1, 1]}}", search={"choose": "the nicest"})
    with pytest.raises(ConfigError):
        check_search(config)


IMAGES = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("a", "b"))
TOKENS = TokenSchema(length=8, vocab_size=90, has_labels=True, classes=("a", "b"))


@pytest.mark.parametrize(
    ("space", "fields", "schema", "message"),
    [
        ("{mixup_alpha: {float: [0.1, 0.4]}}", {}, TOKENS, "train.mixup_alpha is 0.1, but the data set has no inputs that are values"),
        ("{cutmix_alpha: {float: [0.1, 0.4]}}", {}, TOKENS, "the data set has no images"),
        ("{distil_alpha: {float: [0.1, 0.4]}, distil.kind: {choice: [logits, self]}}", {"student": {"ema_decay": 0}}, IMAGES, "ema_decay is 0"),
        ("{sparsify.ratio: {float: [0.1, 0.4]}}", {"search": {"trial": {"workers": 2}}}, IMAGES, "but 2 workers train a trial"),
        ("{weight_bits: {choice: [8]}, quantize.qat: {choice: [true]}}", {"search": {"trial": {"workers": 2}}}, IMAGES, "simulated int8"),
    ],
)
def test_trainings_that_cannot_be_are_refused_before_there_is_a_teacher(
    tmp_path: Path, space: str, fields: dict[str, dict[str, object]], schema: Schema, message: str
) -> None:
    config = _config(tmp_path, f"params: {space}")
    asked = PipelineConfig.model_validate({**config.model_dump(mode="json"), **{name: _with(config, name, more) for name, more in fields.items()}})
    check_trials(check_search(config), config, IMAGES if schema is TOKENS else schema)
    with pytest.raises(FoundryError) as caught:
        check_trials(check_search(asked), asked, schema)
    assert message in caught.value.message
    assert caught.value.hint


def _with(config: PipelineConfig, section: str, more: dict[str, object]) -> dict[str, object]:
    return {**getattr(config, section).model_dump(mode="json"), **more}


def test_a_space_of_runtimes_that_are_not_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    beside = _config(tmp_path, "params: {runtime: {choice: [tensorrt, onnxruntime]}, runtime_threads: {choice: [1]}}")
    check_runtimes(check_search(beside), where="mine.yaml")
    alone = _config(tmp_path, "params: {runtime: {choice: [tensorrt]}, runtime_threads: {choice: [1, 2]}}")
    with pytest.raises(ConfigError, match=r"mine.yaml: no student can be measured here: runtime tensorrt needs onnxruntime with") as caught:
        check_runtimes(check_search(alone), where="mine.yaml")
    assert "pip install onnxruntime-gpu" in caught.value.hint
