"""DeepSpeed's own configuration, made from ours, and the contradictions that are refused before anything starts.

Imports neither torch nor DeepSpeed, so that `foundry plan` can check and print it. Which keys of DeepSpeed exist and who sets them stands in
`keys.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from foundry_ray.config import IMPORT, DeepSpeedConfig, LossScaleConfig, OffloadConfig, TeacherConfig
from foundry_ray.errors import ConfigError, OutOfRange
from foundry_ray.training.deepspeed.keys import check_extra
from foundry_ray.training.shape import Shape
from foundry_ray.types import Json

_MAX_BUCKET = 50_000_000
_MAX_LIVE = 1_000_000_000
_SHARE, _LEAST = 8, 4_000_000
_NEVER = 10**9
_HERE = "teacher.deepspeed"

Precision = Literal["fp32", "bf16", "fp16"]


def check_deepspeed(config: TeacherConfig, *, zero_stage: int | None = None) -> None:
    """Refuse what DeepSpeed cannot do with this configuration, or would do other than it reads.

    Args:
        zero_stage: The stage of a shape, where it is not the configured one.

    Raises:
        ConfigError: Keys that contradict each other; an UnknownKey for one in `extra` that DeepSpeed does not have.
        OutOfRange: A value that DeepSpeed refuses.
    """
    stage = config.deepspeed.zero_stage if zero_stage is None else zero_stage
    _check_optimizer(config, stage)
    _check_weights(config, stage)
    _check_offload(config.deepspeed, stage)
    _check_loss_scale(config)
    bucket = config.deepspeed.allgather_bucket_size
    if bucket is not None and bucket % 2:
        message = f"{_HERE}.allgather_bucket_size is {bucket}, wanted an even number: NCCL aligns what it gathers."
        raise OutOfRange(message, hint=f"set it to {bucket + 1}.", key=f"{_HERE}.allgather_bucket_size", value=bucket)
    check_extra(config.deepspeed.extra)


def deepspeed_config(
    config: TeacherConfig, shape: Shape, *, precision: Precision | None = None, has_gpu: bool = False, num_params: int | None = None
) -> dict[str, Json]:
    """The configuration that DeepSpeed gets for a shape.

    Args:
        precision: What `train.precision` resolved to on the device; None: what it says, `auto` as bf16 on a GPU and fp32 elsewhere.
        has_gpu: Whether workers compute on GPUs.
        num_params: Elements of all weights: buckets, and what ZeRO 3 holds whole, are small beside them.

    Returns:
        JSON as `deepspeed.initialize` takes it. ZeRO 0 clips nothing there: the engine does, and so knows the norm. fp16 has a fixed scale
        there, because the engine keeps it (`LossScale`) and tells DeepSpeed.
    """
    resolved = precision or _assumed(config, has_gpu)
    result: dict[str, Json] = {
        "train_batch_size": shape.batch_size,
        "train_micro_batch_size_per_gpu": shape.micro_batch_size,
        "gradient_accumulation_steps": shape.accumulation,
        "gradient_clipping": config.train.grad_clip if shape.zero_stage else 0.0,
        "zero_optimization": _zero(config.deepspeed, shape.zero_stage, has_gpu=has_gpu, num_params=num_params),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": _NEVER,
        "timers": {"throughput": {"enabled": False}},  # it waits for the GPU in each pass, and nobody reads it
    }
    if config.deepspeed.weights == "precision" and resolved != "fp32":
        result |= _cast(resolved, shape.accumulation)
    return _merged(result, config.deepspeed.extra)


def _assumed(config: TeacherConfig, has_gpu: bool) -> Precision:
    named = config.train.precision
    return named if named != "auto" else "bf16" if has_gpu else "fp32"


def _cast(precision: Precision, accumulation: int) -> dict[str, Json]:
    """Weights in half precision; where gradients of several passes are added up, that happens in fp32."""
    block: dict[str, Json] = {"enabled": True} if precision == "bf16" else {"enabled": True, "loss_scale": 1.0}
    return {precision: block, **({"data_types": {"grad_accum_dtype": "fp32"}} if accumulation > 1 else {})}


def _zero(config: DeepSpeedConfig, stage: int, *, has_gpu: bool, num_params: int | None) -> dict[str, Json]:
    window = _window(num_params)
    result: dict[str, Json] = {
        "stage": stage,
        "overlap_comm": has_gpu if config.overlap_comm == "auto" else config.overlap_comm,
        "contiguous_gradients": config.contiguous_gradients,
        "reduce_bucket_size": config.reduce_bucket_size or min(_MAX_BUCKET, window),
        "offload_optimizer": _offload(config.offload_optimizer, has_gpu=has_gpu),
        "offload_param": _offload(config.offload_params, has_gpu=has_gpu),
        "allgather_bucket_size": config.allgather_bucket_size,
        "stage3_param_persistence_threshold": config.persistence_threshold,
    }
    if stage == 3:
        live = config.max_live_parameters or min(_MAX_LIVE, window)
        result |= {"stage3_prefetch_bucket_size": config.prefetch_bucket_size or min(_MAX_BUCKET, window)}
        result |= {"stage3_max_live_parameters": live, "stage3_max_reuse_distance": live}
    return {key: value for key, value in result.items() if value is not None}


def _window(num_params: int | None) -> int:
    """Elements that may lie beside a rank's own: an eighth of the model. DeepSpeed's defaults would keep all of one below a billion whole."""
    return _MAX_LIVE if num_params is None else min(num_params, max(num_params // _SHARE, _LEAST))


def _offload(config: OffloadConfig, *, has_gpu: bool) -> dict[str, Json] | None:
    if config.device == "none":
        return None
    path: dict[str, Json] = {"nvme_path": str(config.path)} if config.path else {}
    return {"device": config.device, "pin_memory": config.pin_memory and has_gpu, **path}


def _merged(ours: dict[str, Json], extra: Mapping[str, Json]) -> dict[str, Json]:
    """Ours with the extra keys, section by section."""
    result = dict(ours)
    for key, value in extra.items():
        section = result.get(key)
        result[key] = _merged(section, value) if isinstance(section, dict) and isinstance(value, Mapping) else value
    return result


def _check_optimizer(config: TeacherConfig, stage: int) -> None:
    name = config.train.optimizer
    if stage and (name == "adafactor" or name.startswith(IMPORT)):
        reason = "it looks at whole matrices" if name == "adafactor" else "what it looks at is not known"
        message = f"teacher.train.optimizer is {name} and {_HERE}.zero_stage is {stage}, which cuts weights into pieces; wanted stage 0: {reason}."
        raise ConfigError(message, hint=f"set `{_HERE}.zero_stage: 0`, or an optimizer that goes element by element: adamw, sgd, lion.")


def _check_weights(config: TeacherConfig, stage: int) -> None:
    if config.deepspeed.weights != "precision":
        return
    if config.train.precision == "fp32":
        message = f"{_HERE}.weights is precision and teacher.train.precision is fp32, wanted bf16, fp16 or auto: there is nothing to cast to."
        raise ConfigError(message, hint=f"set `{_HERE}.weights: fp32`, or `teacher.train.precision: bf16`.")
    if stage == 0:
        message = f"{_HERE}.weights is precision and {_HERE}.zero_stage is 0, wanted at least 1: the fp32 copies of the weights are sharded."
        raise ConfigError(message, hint=f"set `{_HERE}.zero_stage: 1`, or `{_HERE}.weights: fp32`.")


def _check_offload(config: DeepSpeedConfig, stage: int) -> None:
    optimizer, params = config.offload_optimizer.device, config.offload_params.device
    if optimizer != "none" and stage == 0:
        message = f"{_HERE}.offload_optimizer.device is {optimizer} and {_HERE}.zero_stage is 0, wanted at least 1: stage 0 leaves it where it is."
        raise ConfigError(message, hint=f"set `{_HERE}.zero_stage: 1`, or leave `{_HERE}.offload_optimizer` out.")
    if optimizer == "nvme":
        message = f"{_HERE}.offload_optimizer.device is nvme, wanted cpu or none: checkpoints are written from state that is in memory."
        raise ConfigError(message, hint=f"set `{_HERE}.offload_optimizer: {{device: cpu}}`; weights may go to nvme with `{_HERE}.offload_params`.")
    if params != "none" and stage != 3:
        message = f"{_HERE}.offload_params.device is {params} and {_HERE}.zero_stage is {stage}, wanted 3: only that stage takes weights apart."
        raise ConfigError(message, hint=f"set `{_HERE}.zero_stage: 3`, or leave `{_HERE}.offload_params` out.")


def _check_loss_scale(config: TeacherConfig) -> None:
    scale, precision = config.deepspeed.loss_scale, config.train.precision
    if scale != LossScaleConfig() and precision != "fp16":
        message = f"{_HERE}.loss_scale is set and teacher.train.precision is {precision}, wanted fp16: nothing else scales the loss."
        raise ConfigError(message, hint=f"leave `{_HERE}.loss_scale` out, or set `teacher.train.precision: fp16`.")
    if scale.min_scale > 2**scale.initial_power:
        message = f"{_HERE}.loss_scale.min_scale is {scale.min_scale:g}, wanted at most the first scale, 2 to the power of {scale.initial_power}."
        key = f"{_HERE}.loss_scale.min_scale"
        raise OutOfRange(message, hint=f"lower `{key}`, or raise `{_HERE}.loss_scale.initial_power`.", key=key, value=scale.min_scale)
