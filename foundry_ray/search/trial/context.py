"""What all trials of a study share, and what a process brings along to run them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foundry_ray.config import StudentConfig
from foundry_ray.data.loading import Split
from foundry_ray.protocols import Clock, Given
from foundry_ray.search.constraints import Constraint
from foundry_ray.types import Json, Schema

if TYPE_CHECKING:
    import numpy as np


WAITING = "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialContext:
    """What all trials of a study share. Its arrays may be read-only views of shared memory.

    Attributes:
        logits_VNC: The teacher's logits on V views of each training row, float16; None where no recipe distils.
        teacher_tensors: The teacher's weights as safetensors.
        teacher_onnx: The file that would be served of the teacher; empty where nobody compares latencies.
        teacher_cost: Its `num_params`, `num_macs` and `size_bytes`.
        objectives: The metrics that are wanted.
        seed: Of the augmentation and the order of rows, the same for all trials and for `logits_VNC`.
        prefix: Where trials keep their checkpoints in the store.
        runtimes: Those that the space chooses among.
    """

    train: Split
    val: Split
    logits_VNC: np.ndarray | None
    teacher_description: Json
    teacher_tensors: bytes
    family: str
    schema: Schema
    task: str
    augment: tuple[str, ...]
    student: StudentConfig
    constraints: tuple[Constraint, ...]
    batch_size: int
    seed: int
    prefix: str
    teacher_onnx: bytes = b""
    teacher_cost: Mapping[str, float] = field(default_factory=dict)
    objectives: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()

    def given(self, seed: int) -> Given:
        """What the steps of a trial's recipe may look at."""
        return Given(schema=self.schema, task=self.task, inputs_N=self.train.inputs_N, labels_N=self.train.labels_N, seed=seed)

    @property
    def calibration(self) -> np.ndarray:
        """Training rows that set int8 ranges."""
        return self.train.inputs_N[: self.student.calibration_rows]

    @property
    def num_bytes(self) -> int:
        """Of what a GPU holds while it trains: the training split and the logits."""
        return sum(array.nbytes for array in (self.train.inputs_N, self.train.labels_N, self.logits_VNC) if array is not None)


class Phases:
    """Seconds by what they went into: each belongs to the innermost phase that is open."""

    def __init__(self, clock: Clock) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._open: list[str] = []
        self._since_s = 0.0

    @property
    def busy_s(self) -> float:
        """Of all phases but waiting for others."""
        return sum(seconds for name, seconds in self.seconds.items() if name != WAITING)

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """What happens inside is this."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now_s - self._since_s
        self._since_s = now_s
