"""Every key of DeepSpeed's configuration (0.19): which `deepspeed.extra` passes on, which have a key of foundry's own, which are refused and why.

A test compares these tables with the installed DeepSpeed, so that a key which comes or goes is seen.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from foundry_ray.errors import ConfigError, UnknownKey
from foundry_ray.types import Json

_EXTRA = "teacher.deepspeed.extra"
_GONE = "DeepSpeed has removed it"
_PARALLEL = "foundry trains data-parallel, and shards by ZeRO"
_FEED = "foundry feeds the batches"
_STORE = "checkpoints go to foundry's own store"
_SAME_MEAN = "a step's gradient is the mean over its samples, whoever computes it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys of one section.

    Attributes:
        passed: Handed on as they are.
        owned: DeepSpeed's key -> the key of foundry that sets it.
        refused: DeepSpeed's key -> why it is of no use here.
    """

    passed: frozenset[str]
    owned: Mapping[str, str]
    refused: Mapping[str, str]

    @property
    def all(self) -> frozenset[str]:
        """Every key that DeepSpeed reads."""
        return self.passed | self.owned.keys() | self.refused.keys()


TOP = Keys(
    passed=frozenset(
        {
            "aio",
            "comet",
            "comms_logger",
            "communication_data_type",
            "csv_monitor",
            "data_types",
            "disable_allgather",
            "disable_python_gc",
            "dump_state",
            "flops_profiler",
            "gradient_predivide_factor",
            "log_level",
            "memory_breakdown",
            "prescale_gradients",
            "steps_per_print",
            "tensorboard",
            "timers",
            "wall_clock_breakdown",
            "wandb",
            "zero_optimization",
        }
    ),
    owned={
        "activation_checkpointing": "teacher.activation_checkpointing",
        "bf16": "teacher.train.precision",
        "bfloat16": "teacher.train.precision",
        "checkpoint": "teacher.checkpoint",
        "compile": "teacher.compile",
        "fp16": "teacher.train.precision",
        "gradient_accumulation_steps": "teacher.micro_batch_size",
        "gradient_clipping": "teacher.train.grad_clip",
        "managed_gradient_accumulation": "teacher.micro_batch_size",
        "optimizer": "teacher.train.optimizer",
        "scheduler": "teacher.train.schedule",
        "torch_autocast": "teacher.train.precision",
        "train_batch_size": "teacher.train.batch_size",
        "train_micro_batch_size_per_gpu": "teacher.micro_batch_size",
        "zero_allow_untested_optimizer": "teacher.train.optimizer",
        "zero_force_ds_cpu_optimizer": "teacher.deepspeed.offload_optimizer",
    },
    refused={
        "amp": _GONE,
        "autotuning": "foundry's search tunes, and this ends the process",
        "compression_training": _GONE,
        "curriculum_learning": _GONE,
        "data_efficiency": _FEED,
        "dataloader_drop_last": _FEED,
        "datastates_ckpt": _STORE,
        "eigenvalue": _GONE,
        "elasticity": _GONE,
        "expert_parallel": _PARALLEL,
        "gradient_allreduce_op": _SAME_MEAN,
        "graph_harvesting": _GONE,
        "hybrid_engine": "it generates text between steps, which nothing here asks for",
        "nebula": _GONE,
        "pipeline": _PARALLEL,
        "progressive_layer_drop": _GONE,
        "quantize_training": _GONE,
        "seq_parallel_communication_data_type": _PARALLEL,
        "sparse_attention": _GONE,
        "sparse_gradients": _GONE,
        "tensor_parallel": _PARALLEL,
        "use_data_before_expert_parallelism": _PARALLEL,
        "vocabulary_size": "nothing in DeepSpeed follows it",
        "weight_quantization": "it is for inference",
    },
)

ZERO = Keys(
    passed=frozenset(
        {
            "allgather_partitions",
            "enable_sanity_checks",
            "ignore_unused_parameters",
            "leaf_module",
            "log_trace_cache_warnings",
            "memory_efficient_linear",
            "parameter_alignment",
            "reduce_scatter",
            "stage3_allgather_sequential",
            "stage3_max_reuse_distance",
            "stage3_model_persistence_threshold",
            "stage3_module_granularity_threshold",
            "stage3_use_all_reduce_for_fetch_params",
            "sub_group_size",
            "use_multi_rank_bucket_allreduce",
            "zero_hpz_partition_size",
            "zero_quantized_gradients",
            "zero_quantized_nontrainable_weights",
            "zero_quantized_weights",
        }
    ),
    owned={
        "allgather_bucket_size": "teacher.deepspeed.allgather_bucket_size",
        "contiguous_gradients": "teacher.deepspeed.contiguous_gradients",
        "cpu_offload": "teacher.deepspeed.offload_optimizer",
        "cpu_offload_param": "teacher.deepspeed.offload_params",
        "cpu_offload_use_pin_memory": "teacher.deepspeed.offload_optimizer.pin_memory",
        "offload_optimizer": "teacher.deepspeed.offload_optimizer",
        "offload_param": "teacher.deepspeed.offload_params",
        "overlap_comm": "teacher.deepspeed.overlap_comm",
        "reduce_bucket_size": "teacher.deepspeed.reduce_bucket_size",
        "stage": "teacher.deepspeed.zero_stage",
        "stage3_max_live_parameters": "teacher.deepspeed.max_live_parameters",
        "stage3_param_persistence_threshold": "teacher.deepspeed.persistence_threshold",
        "stage3_prefetch_bucket_size": "teacher.deepspeed.prefetch_bucket_size",
    },
    refused={
        "compute_grad_norm": "the gradient's norm tells that a step is not finite",
        "elastic_checkpoint": _STORE,
        "legacy_stage1": _GONE,
        "load_from_fp32_weights": _STORE,
        "override_module_apply": "models are built before DeepSpeed sees them",
        "pipeline_loading_checkpoint": _STORE,
        "round_robin_gradients": "DeepSpeed's own map from weights to their fp32 copies is wrong with it, and checkpoints need that map",
        "save_muon_momentum_buffer_in_memory": "foundry has no Muon",
        "stage3_gather_16bit_weights_on_model_save": _STORE,
        "stage3_gather_fp16_weights_on_model_save": _STORE,
        "zenflow": "the state that it keeps apart would be in no checkpoint",
    },
)

DATA_TYPES = Keys(
    passed=frozenset({"buffer_dtype", "grad_accum_dtype", "keep_in_fp32_modules"}), owned={"param_dtype": "teacher.deepspeed.weights"}, refused={}
)


def check_extra(extra: Mapping[str, Json]) -> None:
    """Refuse keys that DeepSpeed does not have, that have a key of foundry's own, or that do not go with how foundry trains.

    Raises:
        UnknownKey: No such key; the hint names the nearest.
        ConfigError: A key that is not to be passed on, and what to use instead.
    """
    _check(TOP, extra, _EXTRA)
    for name, keys in (("zero_optimization", ZERO), ("data_types", DATA_TYPES)):
        section = extra.get(name, {})
        if not isinstance(section, Mapping):
            raise ConfigError(f"{_EXTRA}.{name} is {section!r}, wanted a section of keys.", hint="DeepSpeed's documentation lists them.")
        _check(keys, section, f"{_EXTRA}.{name}")


def _check(keys: Keys, section: Mapping[str, Json], path: str) -> None:
    for key in section:
        if key in keys.owned:
            message = f"{path}.{key} is set, wanted `{keys.owned[key]}`, which decides it."
            raise ConfigError(message, hint=f"set `{keys.owned[key]}`, and leave `{path}.{key}` out.")
        if key in keys.refused:
            message = f"{path}.{key} is set, but foundry does not pass it on: {keys.refused[key]}."
            raise ConfigError(message, hint=f"leave `{path}.{key}` out.")
        if key not in keys.passed:
            raise _unknown(keys, key, path)


def _unknown(keys: Keys, key: str, path: str) -> UnknownKey:
    near = difflib.get_close_matches(key, sorted(keys.all), n=1, cutoff=0.3)
    nearest = f"{path}.{near[0]}" if near else None
    hint = f"did you mean `{near[0]}`?" if near else f"these are passed on: {', '.join(sorted(keys.passed))}."
    return UnknownKey(
        f"{path}.{key} is no key of DeepSpeed's configuration, wanted one that it has.", hint=hint, key=f"{path}.{key}", nearest=nearest
    )
