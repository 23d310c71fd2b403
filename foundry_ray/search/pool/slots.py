"""How many trials run at once, and what each reserves: a function of the cluster's nodes, so that nobody sets a concurrency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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

    @property
    def gpu_share(self) -> float:
        """What each worker reserves of GPUs."""
        return self.gpus if self.num_workers == 1 else self.per_worker.get("GPU", 0.0)


def plan_slots(resources: Mapping[str, float], trial: TrialConfig) -> Slots:
    """`plan_on_nodes` for a single node."""
    return plan_on_nodes([resources], trial)


def plan_on_nodes(nodes: Sequence[Mapping[str, float]], trial: TrialConfig) -> Slots:
    """Fill the nodes with trials. A worker is on one node, and a group of them is counted only where all of it has a place.

    Without a number of GPUs, a GPU is shared by as many one-worker trials as its node has CPUs for, at most eight; of a trial with several workers
    each has one, where there are enough for all of them.

    Args:
        nodes: All that each offers, as Ray names it: `CPU`, `GPU`.

    Raises:
        ResourcesUnavailable: Not one fits.
    """
    share = _gpu_share(nodes, trial)
    count = sum(_fitting(node, trial.cpus, share) for node in nodes) // trial.workers
    if count < 1:
        raise _nothing_fits(nodes, trial, share)
    if trial.workers == 1:
        return Slots(count=count, cpus=trial.cpus, gpus=share)
    per_worker = {"CPU": trial.cpus, **({"GPU": share} if share else {})}
    return Slots(count=count, cpus=0.0, gpus=0.0, num_workers=trial.workers, per_worker=per_worker)


def as_planned(trial: TrialConfig, slots: Slots) -> TrialConfig:
    """With the share of a GPU that was planned: nodes that come make more slots and no other ones, since memory is counted by that share."""
    return trial.model_copy(update={"gpus": slots.gpu_share})


def _gpu_share(nodes: Sequence[Mapping[str, float]], trial: TrialConfig) -> float:
    if trial.gpus is not None:
        return trial.gpus
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    if gpus < trial.workers:
        return 0.0
    by_cpu = sum(_fitting(node, trial.cpus, 0.0) for node in nodes if node.get("GPU", 0.0) > 0)
    return 1.0 if trial.workers > 1 else 1.0 / max(1, min(MAX_PER_GPU, int(by_cpu / gpus)))


def _fitting(node: Mapping[str, float], cpus: float, share: float) -> int:
    """Workers that a node has room for: a share never spans two GPUs."""
    by_cpu, gpus = int(node.get("CPU", 0.0) / cpus + 1e-9), node.get("GPU", 0.0)
    if not share:
        return by_cpu
    return min(by_cpu, math.floor(gpus) * int(1 / share + 1e-9) if share <= 1 else int(gpus / share + 1e-9))


def _nothing_fits(nodes: Sequence[Mapping[str, float]], trial: TrialConfig, share: float) -> ResourcesUnavailable:
    requested = {"CPU": trial.cpus * trial.workers, **({"GPU": share * trial.workers} if share else {})}
    available = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    where = "in all"
    if all(available[name] >= amount for name, amount in requested.items()):
        largest = {name: max(node.get(name, 0.0) for node in nodes) for name in available}
        where = f"in all, at most {_said(largest)} on a node"
    message = f"one trial takes {_said(requested)}, but the cluster has {_said(available)} {where}."
    hint = "lower `search.trial.workers`, `search.trial.cpus` or `search.trial.gpus`."
    return ResourcesUnavailable(message, hint=hint, requested=requested, available=available)


def _said(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{value:g} {name}" for name, value in resources.items())
