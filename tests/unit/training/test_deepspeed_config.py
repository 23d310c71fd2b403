"""Our configuration as DeepSpeed's, the keys that are passed on, and the contradictions that are refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from foundry_ray.config import TeacherConfig
from foundry_ray.errors import ConfigError, FoundryError, OutOfRange, UnknownKey
from foundry_ray.training.deepspeed import check_deepspeed, deepspeed_config
from foundry_ray.training.deepspeed.keys import DATA_TYPES, TOP, ZERO
from foundry_ray.training.deepspeed.loading import check_disks
from foundry_ray.training.shape import Shape, shape_of


def _teacher(train: dict[str, Any] | None = None, **deepspeed: Any) -> TeacherConfig:
    return TeacherConfig.model_validate({"train": {"batch_size": 64, **(train or {})}, "micro_batch_size": 8, "deepspeed": deepspeed})


def _made(config: TeacherConfig, **options: Any) -> dict[str, Any]:
    return deepspeed_config(config, shape_of(config, 2), **options)


def _refused(config: TeacherConfig) -> FoundryError:
    with pytest.raises(ConfigError) as caught:
        check_deepspeed(config)
    return caught.value


def test_the_batch_is_spread_as_the_shape_says() -> None:
    shape = Shape(num_workers=4, micro_batch_size=2, accumulation=8, zero_stage=2)
    made: dict[str, Any] = deepspeed_config(_teacher(), shape)
    assert [made[key] for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")] == [64, 2, 8]
    assert made["zero_optimization"]["stage"] == 2


def test_deepspeed_itself_takes_what_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    config = _teacher(
        {"precision": "bf16", "grad_clip": 0.5},
        weights="precision",
        zero_stage=3,
        offload_params={"device": "cpu"},
        prefetch_bucket_size=7,
        persistence_threshold=11,
        max_live_parameters=13,
        allgather_bucket_size=16,
        extra={"wall_clock_breakdown": True, "zero_optimization": {"sub_group_size": 17}},
    )
    read = DeepSpeedConfig({**deepspeed_config(config, Shape(num_workers=1, micro_batch_size=16, accumulation=4, zero_stage=3))})
    zero = read.zero_config
    assert (zero.prefetch_bucket_size, zero.param_persistence_threshold, zero.max_live_parameters) == (7, 11, 13)
    assert (zero.allgather_bucket_size, zero.sub_group_size, zero.offload_param.device) == (16, 17, "cpu")
    assert (read.gradient_clipping, read.bfloat16_config.enabled, read.grad_accum_dtype, read.wall_clock_breakdown) == (0.5, True, "fp32", True)


def test_at_zero_0_the_engine_clips_and_deepspeed_does_not() -> None:
    assert _made(_teacher({"grad_clip": 0.5}, zero_stage=0))["gradient_clipping"] == 0.0
    assert _made(_teacher({"grad_clip": 0.5}, zero_stage=1))["gradient_clipping"] == 0.5


@pytest.mark.parametrize(("num_params", "bucket"), [(1000, 1000), (10**7, 4_000_000), (10**8, 12_500_000), (10**9, 50_000_000), (None, 50_000_000)])
def test_buckets_are_small_beside_the_model(num_params: int | None, bucket: int) -> None:
    assert _made(_teacher(), num_params=num_params)["zero_optimization"]["reduce_bucket_size"] == bucket


@pytest.mark.parametrize(("num_params", "live"), [(1000, 1000), (10**8, 12_500_000), (10**11, 10**9), (None, 10**9)])
def test_zero_3_holds_an_eighth_of_the_model_whole(num_params: int | None, live: int) -> None:
    zero = _made(_teacher(zero_stage=3), num_params=num_params)["zero_optimization"]
    assert (zero["stage3_max_live_parameters"], zero["stage3_max_reuse_distance"]) == (live, live)
    assert zero["stage3_prefetch_bucket_size"] == min(live, 50_000_000)


def test_how_far_zero_3_looks_ahead_can_still_be_set() -> None:
    extra = {"zero_optimization": {"stage3_max_reuse_distance": 5}}
    zero = _made(_teacher(zero_stage=3, max_live_parameters=7, extra=extra), num_params=10**8)["zero_optimization"]
    assert (zero["stage3_max_live_parameters"], zero["stage3_max_reuse_distance"]) == (7, 5)


def test_communication_overlaps_on_gpus_unless_it_is_set() -> None:
    assert not _made(_teacher())["zero_optimization"]["overlap_comm"]
    assert _made(_teacher(), has_gpu=True)["zero_optimization"]["overlap_comm"]
    assert not _made(_teacher(overlap_comm=False), has_gpu=True)["zero_optimization"]["overlap_comm"]


def test_weights_are_cast_only_where_they_are_asked_to_be() -> None:
    assert not {"bf16", "fp16"} & _made(_teacher({"precision": "bf16"})).keys()
    assert _made(_teacher({"precision": "fp16"}, weights="precision"))["fp16"] == {"enabled": True, "loss_scale": 1.0}
    assert "bf16" not in _made(_teacher(weights="precision"), precision="fp32")


def test_extra_keys_join_the_sections_that_foundry_makes() -> None:
    made = _made(_teacher(extra={"zero_optimization": {"sub_group_size": 5}, "flops_profiler": {"enabled": True}}, zero_stage=2))
    assert made["zero_optimization"]["sub_group_size"] == 5
    assert made["zero_optimization"]["stage"] == 2
    assert made["flops_profiler"] == {"enabled": True}


def test_the_default_configuration_is_accepted_at_every_stage() -> None:
    for stage in range(4):
        check_deepspeed(_teacher(zero_stage=stage))


CONTRADICTIONS = {
    "adafactor": (_teacher({"optimizer": "adafactor"}), "optimizer is adafactor and teacher.deepspeed.zero_stage is 1", "zero_stage: 0"),
    "imported": (_teacher({"optimizer": "import:mine:make"}, zero_stage=2), "import:mine:make and teacher.deepspeed.zero_stage is 2", "adamw"),
    "cast to fp32": (_teacher({"precision": "fp32"}, weights="precision"), "precision is fp32, wanted bf16", "weights: fp32"),
    "cast without shards": (_teacher(weights="precision", zero_stage=0), "zero_stage is 0, wanted at least 1", "zero_stage: 1"),
    "offload without shards": (_teacher(zero_stage=0, offload_optimizer={"device": "cpu"}), "wanted at least 1", "leave `teacher.deepspeed"),
    "offload of whole weights": (_teacher(zero_stage=2, offload_params={"device": "cpu"}), "zero_stage is 2, wanted 3", "zero_stage: 3"),
    "state on a disk": (_teacher(zero_stage=3, offload_optimizer={"device": "nvme", "path": "/n"}), "wanted cpu or none", "device: cpu"),
    "a scale for nothing": (_teacher({"precision": "bf16"}, loss_scale={"initial_power": 8}), "precision is bf16, wanted fp16", "leave"),
    "a scale below its least": (_teacher({"precision": "fp16"}, loss_scale={"initial_power": 0, "min_scale": 2}), "min_scale is 2", "lower"),
    "an odd bucket": (_teacher(allgather_bucket_size=5), "allgather_bucket_size is 5, wanted an even number", "set it to 6"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_refused_with_the_key_that_mends_it(name: str) -> None:
    config, message, hint = CONTRADICTIONS[name]
    error = _refused(config)
    assert message in error.message
    assert hint in error.hint


def test_the_stage_of_a_shape_counts_and_not_the_configured_one() -> None:
    config = _teacher({"optimizer": "adafactor"}, zero_stage=0)
    check_deepspeed(config)
    with pytest.raises(ConfigError, match="zero_stage is 1"):
        check_deepspeed(config, zero_stage=1)


def test_an_unknown_extra_key_names_the_nearest() -> None:
    error = _refused(_teacher(extra={"zero_optimisation": {}}))
    assert isinstance(error, UnknownKey)
    assert error.hint == "did you mean `zero_optimization`?"
    nested = _refused(_teacher(extra={"zero_optimization": {"sub_group": 5}}))
    assert (nested.facts["key"], nested.hint) == ("teacher.deepspeed.extra.zero_optimization.sub_group", "did you mean `sub_group_size`?")


def test_an_extra_key_of_foundrys_own_names_that_one() -> None:
    assert "`teacher.train.grad_clip`" in _refused(_teacher(extra={"gradient_clipping": 2})).hint
    assert "`teacher.deepspeed.zero_stage`" in _refused(_teacher(extra={"zero_optimization": {"stage": 3}})).hint


def test_an_extra_key_that_cannot_work_says_why() -> None:
    error = _refused(_teacher(extra={"zero_optimization": {"round_robin_gradients": True}}))
    assert "DeepSpeed's own map from weights to their fp32 copies is wrong with it" in error.message
    assert "DeepSpeed has removed it" in _refused(_teacher(extra={"nebula": {}})).message


def test_a_section_that_is_none_is_refused() -> None:
    assert "wanted a section" in _refused(_teacher(extra={"zero_optimization": 3})).message


def test_an_odd_bucket_is_out_of_range() -> None:
    error = _refused(_teacher(allgather_bucket_size=5))
    assert isinstance(error, OutOfRange)
    assert error.facts["value"] == 5


def test_no_timer_waits_for_the_gpu_in_each_pass() -> None:
    assert _made(_teacher())["timers"] == {"throughput": {"enabled": False}}
    assert _made(_teacher(extra={"timers": {"throughput": {"enabled": True}}}))["timers"] == {"throughput": {"enabled": True}}


def test_a_disk_that_deepspeed_cannot_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.ops.op_builder import AsyncIOBuilder

    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda self: False)
    check_disks(_made(_teacher(zero_stage=3, offload_params={"device": "cpu"})))
    with pytest.raises(ConfigError, match="needs libaio and its headers"):
        check_disks(_made(_teacher(zero_stage=3, offload_params={"device": "nvme", "path": "/disk"})))


class _Read(dict[str, Any]):
    """A configuration that remembers which keys were asked for."""

    asked: set[str]

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def keys(self) -> Any:
        return self

    def __copy__(self) -> _Read:
        return self


def test_the_keys_are_those_of_the_installed_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    read = _Read(train_micro_batch_size_per_gpu=1)
    read.asked = set()
    DeepSpeedConfig(read)
    assert read.asked - {"sequence_parallel_size"} == TOP.all


def test_the_keys_of_its_sections_are_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime import constants
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    assert {field.alias or name for name, field in DeepSpeedZeroConfig.model_fields.items()} == ZERO.all
    data_types = (constants.GRAD_ACCUM_DTYPE, constants.PARAM_DTYPE, constants.BUFFER_DTYPE, constants.KEEP_IN_FP32_MODULES)
    assert set(data_types) == DATA_TYPES.all


def test_checking_imports_neither_torch_nor_deepspeed() -> None:
    code = "import sys; from foundry_ray.training.deepspeed import check_deepspeed; sys.exit('torch' in sys.modules or 'deepspeed' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
