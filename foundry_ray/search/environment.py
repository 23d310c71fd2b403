"""What the processes of a study need to run its trials, gathered once in the driver."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_ray.config import LatencyConfig, SearchConfig, Settings, StudentConfig
from foundry_ray.protocols import ArtifactStore, Clock, LatencyMeter, Reporter
from foundry_ray.schemas import classes_only
from foundry_ray.search import constraints
from foundry_ray.search.pool.slots import Slots
from foundry_ray.search.targets import trial_seed
from foundry_ray.search.trial import TrialContext, TrialRunner
from foundry_ray.types import DatasetRef, ModelArtifact, SearchSpace

if TYPE_CHECKING:
    import numpy as np

    from foundry_ray.evaluation.latency import RuntimeLatencyMeter
    from foundry_ray.search.trial.gang import Gang


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyContext:
    """What a study is about, and where it finds it.

    Attributes:
        training: What makes the result of a trial besides its parameters, the data set and the teacher, as a hash; empty where nobody says.
    """

    search: SearchConfig
    student: StudentConfig
    task: str
    augment: tuple[str, ...]
    seed: int
    dataset: DatasetRef
    teacher: ModelArtifact
    store: ArtifactStore
    settings: Settings
    training: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyEnvironment:
    """What a worker needs to run trials; its arrays are read from shared memory.

    Attributes:
        slots: What a trial reserves.
        room_bytes: Memory of the node for one worker of a trial; None where nobody says.
        meter: Measures on other hardware; None where each worker measures in itself.
        gang: Starts the workers of trials that several train.
    """

    shared: TrialContext
    store: ArtifactStore
    settings: Settings
    latency: LatencyConfig
    slots: Slots
    room_bytes: int | None
    meter: LatencyMeter | None
    gang: Gang | None

    def runner(self, reporter: Reporter) -> TrialRunner:
        """See `pool.worker.Environment`."""
        import torch

        from foundry_ray.clock import SystemClock
        from foundry_ray.evaluation.quiet import QuietGate

        torch.set_num_threads(max(1, int(self.slots.cpus)))
        clock, gate = SystemClock(), QuietGate(home=self.settings.home)
        device = device_here() if self.slots.gpus else "cpu"

        def pause() -> None:
            gate.wait(clock)

        return TrialRunner(
            self.shared,
            store=self.store,
            meter=self.meter or local_meter(self.store, self.latency, settings=self.settings, clock=clock, runtimes=self.shared.runtimes),
            clock=clock,
            reporter=reporter,
            between_steps=pause,
            device=device,
            room_bytes=self._room_bytes(device),
            gang=self.gang,
        )

    def _room_bytes(self, device: str) -> int | None:
        """For a trial's tensors: without what a process holds anyway. Nobody says what there is on the GPUs of other workers."""
        from foundry_ray.search import memory
        from foundry_ray.search.pool.worker import own_bytes

        if device.startswith("cuda"):
            return memory.gpu_room_bytes(device, self.slots.gpus) - self.shared.num_bytes
        if self.room_bytes is None or "GPU" in self.slots.per_worker:
            return None
        return self.room_bytes - own_bytes()


def local_meter(
    store: ArtifactStore, latency: LatencyConfig, *, settings: Settings, clock: Clock, runtimes: tuple[str, ...] = ()
) -> RuntimeLatencyMeter:
    """Measures in this process, when it is quiet on this node; `runtimes` are those that may be asked for beside the default one."""
    from foundry_ray.evaluation.latency import RuntimeLatencyMeter
    from foundry_ray.evaluation.quiet import QuietGate

    gate = QuietGate(home=settings.home)
    return RuntimeLatencyMeter(store=store, threads=latency.threads, budget_s=latency.budget_s, clock=clock, gate=gate, others=runtimes)


def shared_context(context: StudyContext, space: SearchSpace, logits_VNC: np.ndarray | None, *, prefix: str) -> TrialContext:
    """What the trials share, read from the store; trials are held to the space's limits. Raises ArtifactCorrupt."""
    from foundry_ray import data
    from foundry_ray.artifacts import manifests

    store, teacher = context.store, context.teacher
    costs = {"num_params": teacher.num_params, "num_macs": teacher.num_macs, "size_bytes": teacher.size_bytes}
    return TrialContext(
        train=data.load_split(context.dataset, "train", store=store),
        val=data.load_split(context.dataset, "val", store=store),
        logits_VNC=logits_VNC,
        teacher_description=json.loads(manifests.read_file(store, teacher.artifact.key, "architecture.json")),
        teacher_tensors=manifests.read_file(store, teacher.artifact.key, "model.safetensors"),
        teacher_onnx=manifests.read_file(store, teacher.artifact.key, "model.onnx"),
        teacher_cost={metric: float(value) for metric, value in costs.items()},
        family=teacher.family,
        schema=classes_only(context.dataset.schema, what="the search for a student"),
        task=context.task,
        augment=context.augment,
        student=context.student,
        constraints=tuple(constraints.parse(text, where="search.constraints") for text in space.constraints),
        objectives=tuple(objective.metric for objective in space.objectives),
        batch_size=context.search.latency.batch_size,
        seed=trial_seed(context.seed),
        prefix=prefix,
        runtimes=runtimes_of(space),
    )


def runtimes_of(space: SearchSpace) -> tuple[str, ...]:
    """The runtimes that a space chooses among."""
    return tuple(str(name) for param in space.params if param.name in ("runtime", "runtime.name") for name in param.choices)


def slot_bytes(nodes: Iterable[Mapping[str, float]], cpus: float) -> int | None:
    """Memory of one trial that reserves so many CPUs: its share of the node where that is least, so that it fits wherever it is placed.

    Args:
        nodes: What each offers, as Ray names it: `CPU`, and `memory` in bytes.

    Returns:
        None where no node says.
    """
    shares = [node["memory"] * cpus / node["CPU"] for node in nodes if node.get("CPU", 0.0) >= cpus and node.get("memory", 0.0) > 0]
    return int(min(shares)) if shares else None


def device_here() -> str:
    """The device that this process was given."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"
