"""What is refused before anything starts: each with what it is, what it was to be, and the key that mends it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping

import pytest

from foundry_ray.config import TeacherConfig, TrainConfig
from foundry_ray.errors import ConfigError, DataError, FoundryError, OutOfRange, ResourcesUnavailable
from foundry_ray.training.checks import check_inputs, check_machine, check_rows, check_training, described_precision, ignored, resolved_engine
from foundry_ray.types import DatasetRef, ImageSchema, Preprocessing, SplitInfo, TokenSchema


def _teacher(batch_size: int = 128, train: Mapping[str, object] | None = None, **fields: object) -> TeacherConfig:
    return TeacherConfig.model_validate({"train": {"batch_size": batch_size, **(train or {})}, **fields})


def _dataset(**num_rows: int) -> DatasetRef:
    return DatasetRef(
        key="data/d",
        fingerprint="f",
        task="image_classification",
        splits={name: SplitInfo(num_rows=rows, num_bytes=rows) for name, rows in num_rows.items()},
        schema=ImageSchema(channels=1, height=4, width=4, dtype="uint8", classes=("no", "yes")),
        preprocessing=Preprocessing(mean=(0.0,), std=(1.0,)),
    )


def _refusal(error: type[FoundryError], config: TeacherConfig) -> FoundryError:
    with pytest.raises(error) as caught:
        check_training(config)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "engine"),
    [
        ({"workers": 1}, "torch"),
        ({"workers": 2}, "deepspeed"),
        ({"workers": 2, "min_workers": 1}, "deepspeed"),
        ({"workers": 1, "deepspeed": {"zero_stage": 3}}, "torch"),
        ({"workers": 1, "deepspeed": {"offload_optimizer": {"device": "cpu"}}}, "deepspeed"),
        ({"workers": 1, "deepspeed": {"weights": "precision"}}, "deepspeed"),
        ({"workers": 1, "engine": "deepspeed"}, "deepspeed"),
        ({"workers": 1, "engine": "torch"}, "torch"),
    ],
)
def test_one_worker_trains_with_torch_unless_it_asks_for_what_only_deepspeed_has(fields: dict[str, object], engine: str) -> None:
    assert resolved_engine(_teacher(**fields)) == engine


def test_a_batch_that_the_workers_cannot_share_is_refused() -> None:
    refusal = _refusal(OutOfRange, _teacher(batch_size=100, workers=3))
    assert "teacher.train.batch_size is 100, wanted a multiple of the 3 workers" in refusal.message
    assert "set it to 99" in refusal.hint


def test_a_share_that_the_micro_batch_does_not_divide_is_refused() -> None:
    refusal = _refusal(OutOfRange, _teacher(workers=2, micro_batch_size=24))
    assert "teacher.micro_batch_size is 24, wanted a divisor of 64" in refusal.message
    assert "set it to 16" in refusal.hint


def test_fewest_workers_that_could_never_share_the_batch_are_refused() -> None:
    refusal = _refusal(OutOfRange, _teacher(workers=4, min_workers=3))
    assert "teacher.min_workers is 3, wanted a divisor of the batch of 128" in refusal.message
    assert "set it to 2" in refusal.hint


def test_only_the_share_of_all_workers_must_divide_by_the_micro_batch() -> None:
    check_training(_teacher(batch_size=12, workers=3, min_workers=1, micro_batch_size=4))


def test_the_torch_engine_refuses_several_workers_and_what_it_would_not_follow() -> None:
    refusal = _refusal(ConfigError, _teacher(engine="torch", workers=4))
    assert "teacher.engine is torch and teacher.workers is 4, wanted one worker" in refusal.message
    refusal = _refusal(ConfigError, _teacher(engine="torch", workers=1, deepspeed={"extra": {"steps_per_print": 1}}))
    assert "teacher.deepspeed.extra is set, wanted engine deepspeed" in refusal.message
    assert "`teacher.engine: deepspeed`" in refusal.hint


def test_more_workers_than_the_machine_has_cpus_says_both_numbers_and_the_keys() -> None:
    with pytest.raises(ResourcesUnavailable) as caught:
        check_machine(_teacher(workers=8, cpus_per_worker=2), num_cpus=4)
    assert "teacher.workers is 8 and teacher.cpus_per_worker is 2, which needs 16 CPUs, but this machine has 4." in caught.value.message
    assert "`teacher.cpus_per_worker`" in caught.value.hint
    assert (caught.value.requested, caught.value.available) == ({"CPU": 16.0}, {"CPU": 4.0})


def test_fp16_weights_need_a_gpu() -> None:
    cast = {"train": {"precision": "fp16"}, "deepspeed": {"weights": "precision"}}
    with pytest.raises(ConfigError, match="wanted bf16 on a CPU: DeepSpeed keeps no fp16 weights there"):
        check_machine(_teacher(use_gpu=False, **cast), num_cpus=None)


def test_fewer_workers_that_fit_are_enough() -> None:
    check_machine(_teacher(workers=8, min_workers=2), num_cpus=2)
    with pytest.raises(ResourcesUnavailable, match=r"teacher\.min_workers is 4 .* needs 4 CPUs, but this machine has 2"):
        check_machine(_teacher(workers=8, min_workers=4), num_cpus=2)


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    check_machine(_teacher(workers=1), num_cpus=None)
    with pytest.raises(ConfigError, match=r"teacher.compile is true, which needs a C\+\+ compiler, but none of g\+\+"):
        check_machine(_teacher(workers=1, compile=True), num_cpus=None)


def test_deepspeed_must_be_installed_where_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_machine(_teacher(workers=1), num_cpus=2)
    with pytest.raises(ConfigError, match="2 workers, which needs deepspeed, but it is not installed here"):
        check_machine(_teacher(workers=2), num_cpus=2)


@pytest.mark.skipif(any(map(shutil.which, ("nvidia-smi", "rocm-smi"))), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ResourcesUnavailable, match=r"teacher\.use_gpu is true, wanted a GPU, but this machine has none"):
        check_machine(_teacher(workers=1, use_gpu=True), num_cpus=None)


def test_an_empty_split_and_one_smaller_than_a_batch_are_refused() -> None:
    with pytest.raises(DataError, match="the val split of data/d has 0 rows, wanted at least 1"):
        check_rows(_teacher(batch_size=1), _dataset(train=9, val=0, test=1))
    with pytest.raises(OutOfRange, match="batch_size is 8, but the training split has 7 rows, wanted at most that many"):
        check_rows(_teacher(batch_size=8), _dataset(train=7, val=1, test=1))


def test_checking_imports_nothing_heavy() -> None:
    code = (
        "import sys; from foundry_ray.config import TeacherConfig; from foundry_ray.training import checks; "
        "checks.check_training(TeacherConfig()); checks.check_machine(TeacherConfig(workers=1), num_cpus=1); "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'ray', 'torch', 'deepspeed', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_sharding_that_one_torch_worker_ignores_is_named() -> None:
    reason = "one worker trains with torch; `teacher.engine: deepspeed` follows it."
    assert ignored(_teacher(workers=1, deepspeed={"zero_stage": 2})) == (f"teacher.deepspeed.zero_stage is ignored: {reason}",)
    assert ignored(_teacher(workers=2, deepspeed={"zero_stage": 2})) == ()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loss_scale_beside_another_precision_than_fp16_is_named(workers: int) -> None:
    scaled = {"workers": workers, "deepspeed": {"loss_scale": {"initial_power": 8}}}
    reason = "`teacher.train.precision` is auto, and only fp16 is scaled."
    assert ignored(_teacher(**scaled)) == (f"teacher.deepspeed.loss_scale is ignored: {reason}",)
    assert ignored(_teacher(**scaled, train={"precision": "fp16"})) == ()


@pytest.mark.parametrize(
    ("train", "readers"),
    [
        ({"momentum": 0.5}, {"optimizer": "sgd"}),
        ({"optimizer": "sgd", "betas": [0.9, 0.99]}, {"optimizer": "lion"}),
        ({"plateau_patience": 2}, {"schedule": "plateau"}),
        ({"plateau_factor": 0.5}, {"schedule": "plateau"}),
    ],
)
def test_a_key_that_another_choice_does_not_read_is_named(train: dict[str, object], readers: dict[str, object]) -> None:
    (sentence,) = ignored(_teacher(train=train))
    assert sentence.startswith(f"teacher.train.{list(train)[-1]} is ignored: `teacher.train.{next(iter(readers))}` is ")
    assert ignored(_teacher(train={**train, **readers})) == ()


def test_what_auto_precision_means_on_this_cpu_is_what_torch_says() -> None:
    from foundry_ray.training.precision import has_native_bf16

    native = "bf16" if has_native_bf16("cpu") else "fp32"
    assert described_precision(_teacher(use_gpu=False), is_here=True) == f"auto ({native} on this CPU)"
    assert described_precision(_teacher(train={"precision": "fp16"}), is_here=True) == "fp16"
    assert described_precision(_teacher(), is_here=False) == "auto (as the workers' devices are)"


def test_an_unknown_optimizer_and_one_whose_import_fails_are_refused() -> None:
    assert "adamw" in str(_refusal(ConfigError, _teacher(train={"optimizer": "adam"})))
    refusal = _refusal(ConfigError, _teacher(train={"optimizer": "import:no_such_package.optimizers:make"}))
    assert "teacher.train.optimizer is 'import:no_such_package.optimizers:make', but there is no module 'no_such_package'" in refusal.message


@pytest.mark.parametrize(
    ("stage", "fields", "message"),
    [
        (1, {"train": {"optimizer": "adafactor"}}, "adafactor and teacher.deepspeed.zero_stage is 1"),
        (0, {"deepspeed": {"offload_optimizer": {"device": "cpu"}}}, "zero_stage is 0, wanted at least 1"),
        (2, {"deepspeed": {"offload_params": {"device": "cpu"}}}, "zero_stage is 2, wanted 3"),
        (2, {"deepspeed": {"weights": "precision"}, "train": {"precision": "fp32"}}, "there is nothing to cast to"),
        (2, {"deepspeed": {"weights": "precision"}}, "teacher.model.family is resnet, which has batch norm, wanted fp32"),
        (2, {"deepspeed": {"extra": {"zero_optimisation": {}}}}, "zero_optimisation"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(stage: int, fields: dict[str, dict[str, object]], message: str) -> None:
    deepspeed = {"zero_stage": stage, **fields.get("deepspeed", {})}
    refusal = _refusal(ConfigError, _teacher(workers=2, train=fields.get("train"), deepspeed=deepspeed))
    assert message in refusal.message
    assert refusal.hint


def test_weights_of_batch_norm_are_not_cast() -> None:
    from torch import nn

    from foundry_ray.training.deepspeed.engine import check_castable

    check_castable(nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2)))
    with pytest.raises(ConfigError, match=r"batch norm at 1 \(BatchNorm2d\), wanted fp32 or a model without"):
        check_castable(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))


def test_one_torch_worker_may_use_an_optimizer_that_cannot_be_sharded() -> None:
    check_training(_teacher(workers=1, train={"optimizer": "adafactor"}))


def test_token_ids_can_be_neither_mixed_nor_augmented() -> None:
    tokens = TokenSchema(length=8, vocab_size=32)
    check_inputs(_teacher(), tokens, augment=())
    with pytest.raises(ConfigError, match=r"cutmix_alpha is 1.0, but the data set has no images"):
        check_inputs(_teacher(train={"cutmix_alpha": 1.0}), tokens, augment=())
    with pytest.raises(ConfigError, match=r"mixup_alpha is 0.2"):
        check_inputs(_teacher(train={"mixup_alpha": 0.2}), tokens, augment=())
    with pytest.raises(ConfigError, match=r"data.augment is \['flip'\], but the data set has tokens"):
        check_inputs(_teacher(), tokens, augment=("flip",))


def test_what_ships_passes() -> None:
    check_training(TeacherConfig(train=TrainConfig()))
