"""What a profile works with, and what it needs to know besides the pipeline."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from foundry_ray.config import LatencyConfig, Settings
from foundry_ray.data import Split
from foundry_ray.protocols import ArtifactStore, Clock, LatencyMeter, Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Passed in, so that a test owns them.

    Attributes:
        meter: Measures for so many seconds a graph.
        scratch: A store whose contents nobody keeps.
    """

    meter: Callable[[float], LatencyMeter]
    scratch: ArtifactStore
    clock: Clock
    reporter: Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Where the study would run.

    Attributes:
        rows: Of the training and the val split, where they are known.
        train: The training split, where it is prepared and what students come to hangs on it: tokens are counted. Else noise stands for it.
        num_workers: That work at once, where that is known.
        price: Of a worker-hour.
        device: What trials train on: `cpu` or `cuda:<index>`.
        num_students: To stand for the space: of 64, each hundredth of its points is met by one with a probability of one half.
    """

    rows: tuple[int, int] | None
    num_workers: int | None
    price: float
    device: str = "cpu"
    num_students: int = 64
    train: Split | None = None


@contextmanager
def scratch_tools(latency: LatencyConfig, settings: Settings, *, clock: Clock, reporter: Reporter) -> Iterator[Tools]:
    """Tools that measure on this machine, in its quiet, and leave nothing behind."""
    from foundry_ray.artifacts.local import LocalStore
    from foundry_ray.evaluation.latency import RuntimeLatencyMeter
    from foundry_ray.evaluation.quiet import QuietGate

    gate = QuietGate(home=settings.home)
    with tempfile.TemporaryDirectory(prefix="foundry-profile-") as folder:
        scratch = LocalStore(Path(folder))

        def meter(budget_s: float) -> RuntimeLatencyMeter:
            return RuntimeLatencyMeter(store=scratch, threads=latency.threads, budget_s=budget_s, clock=clock, gate=gate)

        yield Tools(meter=meter, scratch=scratch, clock=clock, reporter=reporter)
