"""What about training can be refused before anything starts: no torch, no DeepSpeed and no Ray is imported here.

Decides which engine trains, and whether a configuration can train at all: by itself (`check_training`), on this machine
(`check_machine`), and on a data set (`check_rows`). `preflight` looks at the model, once there is one.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import shutil
import sys
from pathlib import Path
from typing import Literal

from foundry_ray.config import TeacherConfig
from foundry_ray.errors import ConfigError, DataError, OutOfRange, ResourcesUnavailable
from foundry_ray.training.shape import shape_of
from foundry_ray.types import DatasetRef

_COMPILERS = ("g++", "clang++", "c++")
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


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


def check_training(config: TeacherConfig) -> None:
    """What is wrong whatever the data and the machine are.

    Raises:
        ConfigError: Keys contradict each other, or name what there is not.
        OutOfRange: The batch does not divide by the most or the fewest workers, or the share of the most by the micro-batch.
    """
    _check_engine(config)
    _check_shapes(config)


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


def check_machine(config: TeacherConfig, *, num_cpus: int | None = None) -> None:
    """What this machine cannot do, for training that happens on it.

    Args:
        num_cpus: CPUs that are offered; None: as many as the machine has.

    Raises:
        ConfigError: DeepSpeed is not installed, or nothing compiles what `teacher.compile` needs compiled.
        ResourcesUnavailable: The workers need more CPUs than there are, or GPUs where there are none.
    """
    if resolved_engine(config) == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        message = f"teacher.engine is {config.engine} with {config.workers} workers, which needs deepspeed, but it is not installed here."
        raise ConfigError(message, hint="`foundry doctor` says how to mend it; `teacher.engine: torch` with `teacher.workers: 1` needs none.")
    if config.compile and not any(map(shutil.which, _COMPILERS)):
        message = f"teacher.compile is true, which needs a C++ compiler, but none of {', '.join(_COMPILERS)} is on PATH."
        raise ConfigError(message, hint="install one (`apt install g++`), or set `teacher.compile: false`.")
    _check_cpus(config, num_cpus or multiprocessing.cpu_count())
    if config.use_gpu is True and sys.platform == "linux" and not any(Path(device).exists() for device in _GPU_DEVICES):
        message = "teacher.use_gpu is true, wanted a GPU, but this machine has none."
        needed = {"GPU": config.workers * config.gpus_per_worker}
        raise ResourcesUnavailable(
            message, hint="set `teacher.use_gpu: auto`, or name a cluster that has GPUs with `cluster:`.", requested=needed, available={"GPU": 0.0}
        )


def _check_cpus(config: TeacherConfig, num_cpus: int) -> None:
    needed = config.workers * config.cpus_per_worker
    if needed <= num_cpus:
        return
    message = (
        f"teacher.workers is {config.workers} and teacher.cpus_per_worker is {config.cpus_per_worker:g}, which needs {needed:g} CPUs, "
        f"but this machine has {num_cpus}."
    )
    raise ResourcesUnavailable(
        message,
        hint="lower `teacher.workers` or `teacher.cpus_per_worker`, or name a larger cluster with `cluster:` or `foundry submit --address`.",
        requested={"CPU": needed},
        available={"CPU": float(num_cpus)},
    )


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
