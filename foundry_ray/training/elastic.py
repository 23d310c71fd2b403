"""How many workers train, and with which shape: pure functions over what the cluster's nodes offer. `attempts` starts and stops groups.

A group is as large as fits, between `min_workers` and `workers`, and its batch stays the same: fewer workers make more passes per step.
It shrinks when a node goes (the next attempt starts with what is left), and grows when one comes (it is asked to save and stop, and
starts larger from there).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from foundry_ray.config import TeacherConfig
from foundry_ray.errors import ResourcesUnavailable
from foundry_ray.training.shape import Shape, shape_of, usable_workers
from foundry_ray.types import Json

GROW_AFTER_S = 15.0
"""A group runs at least so long before it is stopped to grow: a start costs about as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """What attempts that ran out of memory have taught: the most samples per pass, and the least ZeRO stage. Empty at first."""

    micro_batch_size: int | None = None
    zero_stage: int | None = None

    @property
    def is_known(self) -> bool:
        return self.micro_batch_size is not None or self.zero_stage is not None

    def to_json(self) -> Json:
        """As a checkpoint's meta keeps it."""
        return {"micro_batch_size": self.micro_batch_size, "zero_stage": self.zero_stage}

    @classmethod
    def of(cls, document: Json) -> MemoryLimit:
        """From a checkpoint's meta; empty where it says nothing."""
        found = document if isinstance(document, dict) else {}
        micro, stage = found.get("micro_batch_size"), found.get("zero_stage")
        return cls(micro_batch_size=micro if isinstance(micro, int) else None, zero_stage=stage if isinstance(stage, int) else None)


def shape_within(config: TeacherConfig, num_workers: int, limit: MemoryLimit) -> Shape:
    """The shape for so many workers: never more samples per pass than the full group would have, nor than memory was shown to hold.

    Raises:
        OutOfRange: The batch does not divide by the workers.
    """
    shape = shape_of(config.model_copy(update={"micro_batch_size": None}), num_workers)
    share = shape.micro_batch_size
    most = min(config.micro_batch_size or share, limit.micro_batch_size or share, max(1, config.train.batch_size // config.workers))
    micro = next(size for size in range(min(most, share), 0, -1) if share % size == 0)
    stage = max(shape.zero_stage, limit.zero_stage or 0)
    return replace(shape, micro_batch_size=micro, accumulation=share // micro, zero_stage=stage)


def request_of(config: TeacherConfig, *, use_gpu: bool) -> dict[str, float]:
    """What one worker reserves, by Ray's names."""
    return {"CPU": config.cpus_per_worker, **({"GPU": config.gpus_per_worker} if use_gpu else {})}


def num_fitting(nodes: Iterable[Mapping[str, float]], request: Mapping[str, float]) -> int:
    """How many workers fit, each on one node: what is left over on two nodes makes no worker."""
    return sum(min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in request.items()) for node in nodes)


def larger(config: TeacherConfig, *, num_workers: int, num_fit: int, num_free: int, running_s: float) -> int | None:
    """How many workers a running group should be stopped for; None to let it run.

    Args:
        num_workers: It has.
        num_fit: Workers that the nodes could hold if nobody else were there.
        num_free: Workers that fit into what nobody uses now.
        running_s: Since its first step.
    """
    if num_workers >= config.workers or running_s < GROW_AFTER_S:
        return None
    wanted = usable_workers(config, min(num_fit, num_workers + num_free)) or 0
    return wanted if wanted > num_workers else None


def too_few(config: TeacherConfig, request: Mapping[str, float], *, num_fit: int, waited_s: float) -> ResourcesUnavailable:
    """What is raised where waiting for workers has come to its end."""
    least = config.min_workers or config.workers
    each = " and ".join(f"{amount:g} {name}" for name, amount in request.items())
    message = f"training needs {least} workers with {each} each, and for {waited_s:.0f} s no more than {num_fit} fit what is free on the cluster."
    hint = (
        "add nodes or wait for others to end, then run the same command: it goes on from the last checkpoint. `teacher.min_workers` lets fewer train."
    )
    requested = {name: amount * least for name, amount in request.items()}
    return ResourcesUnavailable(message, hint=hint, requested=requested, available={name: amount * num_fit for name, amount in request.items()})
