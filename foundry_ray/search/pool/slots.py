"""How many trials run at once, and what each reserves: a function of the cluster's resources, so that nobody sets a concurrency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from foundry_ray.config import TrialConfig
from foundry_ray.errors import ResourcesUnavailable

MAX_PER_GPU = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """How many jobs run at once, and what each of them reserves.

    Attributes:
        cpus: Of the process that a job runs in; 0 where it starts workers, which reserve for themselves.
        gpus: As `cpus`.
        num_workers: Of a trial.
        per_worker: What each of several workers reserves, as Ray names it: `CPU`, `GPU`.
    """

    count: int
    cpus: float
    gpus: float
    num_workers: int = 1
    per_worker: Mapping[str, float] = field(default_factory=dict)


def plan_slots(resources: Mapping[str, float], trial: TrialConfig) -> Slots:
    """Fill the cluster with trials.

    Without a number of GPUs, a GPU is shared by as many one-worker trials as there are CPUs for, at most eight; of a trial with several workers
    each has one, where there are enough for all of them.

    Args:
        resources: All of the cluster, as Ray names them: `CPU`, `GPU`.

    Raises:
        ResourcesUnavailable: Not one fits.
    """
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    by_cpu = int(cpus / (trial.cpus * trial.workers) + 1e-9)
    share = _gpu_share(trial, by_cpu, gpus)
    by_gpu = _fitting(gpus, share) // trial.workers if share else by_cpu
    count = min(by_cpu, by_gpu)
    if count < 1:
        requested = {"CPU": trial.cpus * trial.workers, **({"GPU": share * trial.workers} if share else {})}
        available = {"CPU": cpus, "GPU": gpus}
        message = f"one trial takes {_said(requested)}, but the cluster has {_said(available)} in all."
        hint = "lower `search.trial.workers`, `search.trial.cpus` or `search.trial.gpus`."
        raise ResourcesUnavailable(message, hint=hint, requested=requested, available=available)
    if trial.workers == 1:
        return Slots(count=count, cpus=trial.cpus, gpus=share)
    per_worker = {"CPU": trial.cpus, **({"GPU": share} if share else {})}
    return Slots(count=count, cpus=0.0, gpus=0.0, num_workers=trial.workers, per_worker=per_worker)


def _gpu_share(trial: TrialConfig, by_cpu: int, gpus: float) -> float:
    if trial.gpus is not None:
        return trial.gpus
    if gpus < trial.workers:
        return 0.0
    return 1.0 if trial.workers > 1 else 1.0 / max(1, min(MAX_PER_GPU, int(by_cpu / gpus)))


def _fitting(gpus: float, share: float) -> int:
    """Workers on whole GPUs: a share never spans two of them."""
    if share <= 1:
        return math.floor(gpus) * int(1 / share + 1e-9)
    return int(gpus / share + 1e-9)


def _said(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{value:g} {name}" for name, value in resources.items())
