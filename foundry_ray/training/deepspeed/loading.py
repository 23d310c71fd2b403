"""How DeepSpeed is imported: without what costs seconds at the start of each worker and is never used, and without its chatter.

Measured on one core, in CPU seconds: the Muon that every ZeRO stage imports would be compiled (1.0), the autotuner would import MLflow where that
is installed (0.9), and the shared-memory all-reduce would be built with g++ (100, the first time).
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from foundry_ray.errors import ConfigError
from foundry_ray.types import Json


def prepare() -> None:
    """Import DeepSpeed and its ZeRO, once per process. Only this process is touched."""
    with _hidden("mlflow"):
        import deepspeed.ops
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with _uncompiled():
        import deepspeed.runtime.zero.muon.original_muon
    _quieten()


def check_disks(settings: Mapping[str, Json]) -> None:
    """See that DeepSpeed can reach an NVMe disk where its configuration names one. Call `prepare` first.

    Raises:
        ConfigError: What it reads and writes disks with is missing.
    """
    from deepspeed.ops.op_builder import AsyncIOBuilder

    zero = settings["zero_optimization"]
    place = zero.get("offload_param") if isinstance(zero, Mapping) else None
    if isinstance(place, Mapping) and place["device"] == "nvme" and not AsyncIOBuilder().is_compatible():
        message = "teacher.deepspeed.offload_params.device is nvme, which needs libaio and its headers, but they are not on this machine."
        raise ConfigError(message, hint="`apt install libaio-dev`, or set `teacher.deepspeed.offload_params: {device: cpu}`.")


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """While this lasts, a package that is not imported yet cannot be."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # what the import system documents for this
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _uncompiled() -> Iterator[None]:
    """While this lasts, what DeepSpeed marks to be compiled stays as it is."""
    from deepspeed.runtime import compiler

    compile_, compiler.compile = compiler.compile, lambda: compiler.dummy_decorator
    try:
        yield
    finally:
        compiler.compile = compile_


def _quieten() -> None:
    """DeepSpeed and torch.distributed write dozens of lines a second that tell a user nothing."""
    from deepspeed.utils import logger

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")
    logger.setLevel(logging.ERROR)
