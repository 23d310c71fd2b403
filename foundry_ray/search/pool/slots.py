"""How many trials run at once, and what each reserves: a function of the cluster's resources, so that nobody sets a concurrency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from foundry_ray.config import TrialConfig
from foundry_ray.errors import ResourcesUnavailable

MAX_PER_GPU = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """How many jobs run at once, and what each of them reserves."""

    count: int
    cpus: float
    gpus: float


def plan_slots(resources: Mapping[str, float], trial: TrialConfig) -> Slots:
    """Fill the cluster with trials. Without a number of GPUs, a GPU is shared by as many trials as there are CPUs for, at most eight.

    Args:
        resources: All of the cluster, as Ray names them: `CPU`, `GPU`.

    Raises:
        ResourcesUnavailable: Not one fits.
    """
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    by_cpu = int(cpus / trial.cpus + 1e-9)
    share = _gpu_share(trial, by_cpu, gpus)
    by_gpu = _fitting(gpus, share) if share else by_cpu
    count = min(by_cpu, by_gpu)
    if count < 1:
        requested = {"CPU": trial.cpus, **({"GPU": share} if share else {})}
        available = {"CPU": cpus, "GPU": gpus}
        message = f"one trial takes {_said(requested)}, but the cluster has {_said(available)} in all."
        raise ResourcesUnavailable(message, hint="lower `search.trial.cpus` or `search.trial.gpus`.", requested=requested, available=available)
    return Slots(count=count, cpus=trial.cpus, gpus=share)


def _gpu_share(trial: TrialConfig, by_cpu: int, gpus: float) -> float:
    if trial.gpus is not None:
        return trial.gpus
    if gpus < 1:
        return 0.0
    return 1.0 / max(1, min(MAX_PER_GPU, int(by_cpu / gpus)))


def _fitting(gpus: float, share: float) -> int:
    """Trials on whole GPUs: a share never spans two of them."""
    if share <= 1:
        return math.floor(gpus) * int(1 / share + 1e-9)
    return int(gpus / share + 1e-9)


def _said(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{value:g} {name}" for name, value in resources.items())
