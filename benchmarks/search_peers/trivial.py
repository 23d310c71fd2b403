"""The trial that does nothing: its space, and what it says to a coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from foundry_ray.protocols import Reporter
from foundry_ray.search.events import Event, Job
from foundry_ray.types import Objective, Param, SearchSpace

OBJECTIVE = Objective(metric="loss", mode="min")
SPACE = SearchSpace(params=(Param(name="x", kind="float", low=0.0, high=1.0),), objectives=(OBJECTIVE,))


class TrivialRunner:
    """Says what any trial does, that it is prepared and that it came to its rung, and does nothing between."""

    fingerprint = "none"

    def __call__(self, job: Job) -> Iterator[Event]:
        x = float(job.params["x"])
        yield Event(kind="prepared", number=job.number, values={"size_bytes": 1.0}, effective=str(x))
        values = {"loss": (x - 0.3) ** 2}
        yield Event(
            kind="rung", number=job.number, epoch=job.to_epoch, values=values, curve=({"epoch": 1.0, **values},), checkpoint=f"none/{job.number}"
        )


@dataclass(frozen=True, slots=True)
class TrivialEnvironment:
    """For real actors."""

    def runner(self, reporter: Reporter) -> TrivialRunner:
        """See `pool.worker.Environment`."""
        return TrivialRunner()
