"""What about training can be refused before anything starts: no torch, no DeepSpeed and no Ray is imported here.

Decides which engine trains, and whether a configuration can train at all: by itself (`check_training`), on this machine
(`check_machine`), and on a data set (`check_rows`). `preflight` looks at the model, once there is one.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from foundry_ray.config import AdversarialConfig, DeepSpeedConfig, LossScaleConfig, TeacherConfig, TrainConfig
from foundry_ray.errors import ConfigError, DataError, OutOfRange, ResourcesUnavailable
from foundry_ray.training.deepspeed.config import check_deepspeed
from foundry_ray.training.mixing import check_mixing
from foundry_ray.training.optimizers import check_optimizer
from foundry_ray.training.shape import shape_of
from foundry_ray.types import DatasetRef, Schema

_WITH_BATCH_NORM = ("cnn", "resnet")
_COMPILERS = ("g++", "clang++", "c++")
_BF16_FLAGS = {"amx_tile", "avx512_bf16"}
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
_READERS = {
    "momentum": ("optimizer", ("sgd",)),
    "betas": ("optimizer", ("adamw", "lion")),
    "plateau_patience": ("schedule", ("plateau",)),
    "plateau_factor": ("schedule", ("plateau",)),
}
"""Keys of `teacher.train` that not every choice of another key reads: that key, and the choices that do."""


def resolved_engine(config: TeacherConfig) -> Literal["torch", "deepspeed"]:
    """Who trains: `auto` takes torch for one worker, and DeepSpeed for more or where a setting is asked for that only it has."""
    if config.engine != "auto":
        return config.engine
    return "deepspeed" if config.workers > 1 or deepspeed_only(config) else "torch"


def deepspeed_only(config: TeacherConfig) -> tuple[str, ...]:
    """The keys that are set and that only DeepSpeed follows: for one worker a ZeRO stage by itself changes nothing, and is not among them."""
    asked = config.deepspeed
    keys = {
        "weights": asked.weights == "precision",
        "offload_optimizer.device": asked.offload_optimizer.device != "none",
        "offload_params.device": asked.offload_params.device != "none",
        "extra": bool(asked.extra),
    }
    return tuple(f"teacher.deepspeed.{key}" for key, is_set in keys.items() if is_set)


def ignored(config: TeacherConfig) -> tuple[str, ...]:
    """What is set and changes nothing, a sentence for each key."""
    return (*_unread(config.train), *_unscaled(config), *_left_to_deepspeed(config))


def _unread(train: TrainConfig) -> Iterator[str]:
    defaults = TrainConfig()
    for key, (choice, readers) in _READERS.items():
        chosen = getattr(train, choice)
        if chosen not in readers and getattr(train, key) != getattr(defaults, key):
            yield f"teacher.train.{key} is ignored: `teacher.train.{choice}` is {chosen}, and this is for {' and '.join(readers)}."


def _unscaled(config: TeacherConfig) -> Iterator[str]:
    if config.train.precision != "fp16" and config.deepspeed.loss_scale != LossScaleConfig():
        yield f"teacher.deepspeed.loss_scale is ignored: `teacher.train.precision` is {config.train.precision}, and only fp16 is scaled."


def _left_to_deepspeed(config: TeacherConfig) -> Iterator[str]:
    """Torch scales the loss of fp16 as the keys say; the others are not its own."""
    defaults = DeepSpeedConfig(loss_scale=config.deepspeed.loss_scale)
    changed = [key for key, value in config.deepspeed if value != getattr(defaults, key)]
    for key in changed if resolved_engine(config) == "torch" else ():
        yield f"teacher.deepspeed.{key} is ignored: one worker trains with torch; `teacher.engine: deepspeed` follows it."


def described_precision(config: TeacherConfig, *, is_here: bool) -> str:
    """The precision, and what `auto` means on this machine as far as that can be told without torch, whose word counts in the end."""
    if config.train.precision != "auto":
        return config.train.precision
    if not is_here:
        return "auto (as the workers' devices are)"
    if config.use_gpu is not False and _may_have_gpus():
        return "auto (bf16 where the GPU computes it natively, else fp32)"
    return f"auto ({'bf16' if set(_cpu_flags()) & _BF16_FLAGS else 'fp32'} on this CPU)"


def _cpu_flags() -> list[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])


def _may_have_gpus() -> bool:
    """Whether a driver of one is here; where this cannot be told, it may be."""
    return sys.platform != "linux" or any(Path(device).exists() for device in _GPU_DEVICES)


def check_training(config: TeacherConfig) -> None:
    """What is wrong whatever the data and the machine are.

    Raises:
        ConfigError: Keys contradict each other, or name what there is not.
        OutOfRange: The batch does not divide by the most or the fewest workers, or the share of the most by the micro-batch.
    """
    check_optimizer(config.train.optimizer, key="teacher.train.optimizer")
    _check_engine(config)
    _check_shapes(config)
    if resolved_engine(config) == "deepspeed":
        check_deepspeed(config)
        _check_cast(config)


def _check_shapes(config: TeacherConfig) -> None:
    """`workers` as they are asked for; with fewer, `elastic` chooses a micro-batch that divides their share."""
    shape_of(config, config.workers)
    least, batch_size = config.min_workers or config.workers, config.train.batch_size
    if batch_size % least:
        best = max(count for count in range(1, least) if batch_size % count == 0)
        message = f"teacher.min_workers is {least}, wanted a divisor of the batch of {batch_size} samples."
        raise OutOfRange(message, hint=f"set it to {best}, or change `teacher.train.batch_size`.", key="teacher.min_workers", value=least)


def _check_engine(config: TeacherConfig) -> None:
    only = deepspeed_only(config)
    if config.engine == "torch" and config.workers > 1:
        message = f"teacher.engine is torch and teacher.workers is {config.workers}, wanted one worker: that engine trains in one process."
        raise ConfigError(message, hint="set `teacher.workers: 1`, or `teacher.engine: deepspeed`.")
    if config.engine == "torch" and only:
        message = f"teacher.engine is torch and {only[0]} is set, wanted engine deepspeed: only that one follows it."
        raise ConfigError(message, hint=f"set `teacher.engine: deepspeed`, or leave `{only[0]}` out.")


def _check_cast(config: TeacherConfig) -> None:
    """As the engine does with the model of another family, when there is one."""
    if config.deepspeed.weights == "precision" and config.model.family in _WITH_BATCH_NORM:
        message = f"teacher.deepspeed.weights is precision and teacher.model.family is {config.model.family}, which has batch norm, wanted fp32."
        raise ConfigError(message, hint="set `teacher.deepspeed.weights: fp32`; products are computed in the precision all the same.")


def check_machine(config: TeacherConfig, *, num_cpus: int | None) -> None:
    """What this machine cannot do, for training that happens on it.

    Args:
        num_cpus: CPUs that are offered; None where that is not known before a cluster is asked.

    Raises:
        ConfigError: DeepSpeed is not installed, or nothing compiles what `teacher.compile` needs compiled.
        ResourcesUnavailable: The workers need more CPUs than there are, or GPUs where there are none.
    """
    if resolved_engine(config) == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        message = f"teacher.engine is {config.engine} with {config.workers} workers, which needs deepspeed, but it is not installed here."
        raise ConfigError(message, hint="`foundry doctor` says how to mend it; `teacher.engine: torch` with `teacher.workers: 1` needs none.")
    is_cast_to_fp16 = config.deepspeed.weights == "precision" and config.train.precision == "fp16"
    if is_cast_to_fp16 and (config.use_gpu is False or not _may_have_gpus()):
        message = (
            "teacher.deepspeed.weights is precision and teacher.train.precision is fp16, wanted bf16 on a CPU: DeepSpeed keeps no fp16 weights there."
        )
        raise ConfigError(message, hint="set `teacher.train.precision: bf16`, or `teacher.deepspeed.weights: fp32`.")
    if config.compile and not any(map(shutil.which, _COMPILERS)):
        message = f"teacher.compile is true, which needs a C++ compiler, but none of {', '.join(_COMPILERS)} is on PATH."
        raise ConfigError(message, hint="install one (`apt install g++`), or set `teacher.compile: false`.")
    if num_cpus is not None:
        _check_cpus(config, num_cpus)
    if config.use_gpu is True and not _may_have_gpus():
        message = "teacher.use_gpu is true, wanted a GPU, but this machine has none."
        needed = {"GPU": config.workers * config.gpus_per_worker}
        raise ResourcesUnavailable(
            message, hint="set `teacher.use_gpu: auto`, or name a cluster that has GPUs with `cluster:`.", requested=needed, available={"GPU": 0.0}
        )


def _check_cpus(config: TeacherConfig, num_cpus: int) -> None:
    key = "min_workers" if config.min_workers is not None else "workers"
    least = config.min_workers or config.workers
    needed = least * config.cpus_per_worker
    if needed <= num_cpus:
        return
    asked = f"teacher.{key} is {least} and teacher.cpus_per_worker is {config.cpus_per_worker:g}"
    raise ResourcesUnavailable(
        f"{asked}, which needs {needed:g} CPUs, but this machine has {num_cpus}.",
        hint=f"lower `teacher.{key}` or `teacher.cpus_per_worker`, or name a larger cluster with `cluster:` or `foundry submit --address`.",
        requested={"CPU": needed},
        available={"CPU": float(num_cpus)},
    )


def check_inputs(config: TeacherConfig, schema: Schema, *, augment: Sequence[str]) -> None:
    """What a data set's inputs cannot be put through.

    Args:
        augment: Random changes of training inputs, as `data.augment` names them.

    Raises:
        ConfigError: They cannot be mixed, augmented or attacked as asked.
    """
    has_images = schema.kind == "images"
    pieces = resolved_engine(config) == "deepspeed" and (config.deepspeed.zero_stage == 3 or config.deepspeed.weights == "precision")
    check_adversarial(config.train.adversarial, has_images=has_images, is_whole=not pieces)
    check_mixing(config.train, has_images=has_images, is_continuous=has_images)
    if augment and not has_images:
        message = f"data.augment is {list(augment)}, but the data set has {schema.kind}, wanted images or no augmentation."
        raise ConfigError(message, hint="set `data.augment: []`.")


def check_adversarial(adversarial: AdversarialConfig | None, *, has_images: bool, is_whole: bool = True) -> None:
    """See that inputs can be changed against the weights of the moment.

    Args:
        adversarial: What is asked for, if anything is.
        has_images: Between two token ids there is nothing.
        is_whole: Each worker holds the whole model in fp32.

    Raises:
        ConfigError: They cannot.
    """
    if adversarial is None:
        return
    if not has_images:
        raise ConfigError("`adversarial` is set, but the data set has token ids, wanted images.", hint="leave `adversarial` out.")
    if not is_whole:
        message = "`adversarial` is set, but DeepSpeed shares the weights out or casts them, wanted them whole and in fp32 on each worker."
        raise ConfigError(message, hint="set `deepspeed.zero_stage` to 2 or less and `deepspeed.weights: fp32`.")


def check_rows(config: TeacherConfig, dataset: DatasetRef) -> None:
    """What a prepared data set cannot give.

    Raises:
        DataError: A split that training reads is empty.
        OutOfRange: The training split has fewer rows than a batch.
    """
    for name in ("train", "val"):
        if not dataset.splits[name].num_rows:
            raise DataError(f"the {name} split of {dataset.key} has 0 rows, wanted at least 1.", hint=f"raise `data.split.{name}`.")
    check_batch(config, dataset.splits["train"].num_rows)


def check_batch(config: TeacherConfig, num_rows: int) -> None:
    """Raises OutOfRange where a training split of so many rows holds no whole batch."""
    batch_size = config.train.batch_size
    if batch_size > num_rows:
        message = f"teacher.train.batch_size is {batch_size}, but the training split has {num_rows} rows, wanted at most that many."
        raise OutOfRange(
            message, hint=f"set it to {num_rows} or less, or raise `data.split.train`.", key="teacher.train.batch_size", value=batch_size
        )
