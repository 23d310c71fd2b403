"""Our study on a table: the product's coordinator, scheduler, sampler and journal, with a job that reads a row instead of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from benchmarks.search_table import driving
from benchmarks.search_table.candidates import Candidates
from benchmarks.search_table.table import Place, Table
from foundry_ray.search.events import Event, Job
from foundry_ray.search.samplers import Proposal, Sampler
from foundry_ray.search.state import TrialRecord
from foundry_ray.testing.clock import FakeClock
from foundry_ray.types import Objective, SearchSpace

_METRICS = ("error", "log_latency", "log_bytes")
_OBJECTIVES = tuple(Objective(metric=name, mode="min") for name in _METRICS)


class _RowSampler:
    """Goes from each proposal of the product's sampler to the nearest free row."""

    size = None

    def __init__(self, sampler: Sampler, candidates: Candidates) -> None:
        self._sampler = sampler
        self._candidates = candidates

    def propose(self, records: Mapping[int, TrialRecord], number: int) -> Proposal:
        """See `rules.Proposing`."""
        proposal = self._sampler.propose(records, number)
        return replace(proposal, params=self._candidates.take(proposal.params))


def trained(table: Table, space: SearchSpace, *, sampler: Literal["random", "tpe"], seed: int, max_epochs: int) -> list[tuple[int, int]]:
    """(row, epoch) in the order of training, by MO-ASHA with rungs at 1, 3 and 9 epochs and one worker."""
    candidates, wanted = Candidates(space, table.rows), replace(space, objectives=_OBJECTIVES)
    proposing = _RowSampler(Sampler(kind=sampler, space=wanted, objectives=_OBJECTIVES, seed=seed), candidates)
    num_rows, seen = len(table.rows), list[tuple[int, int]]()
    coordinator = driving.coordinator(wanted, proposing, scheduler=driving.ASHA, num_trials=num_rows, seed=seed, clock=FakeClock())
    while len(seen) < max_epochs and (job := coordinator.next_job()) is not None:
        row = candidates.number(job.params)
        for event in _played(job, table.places[row], name=table.rows[row].effective):
            if event.kind == "epoch":
                seen.append((row, event.epoch))
            if not coordinator.observe(event):
                break
    coordinator.close()
    return seen


def _played(job: Job, places: tuple[Place, ...], *, name: str) -> Iterator[Event]:
    """What a trial says that is the row's student."""
    if not job.known:
        yield Event(kind="prepared", number=job.number, values=_values(places[0])[1], effective=name)
    levels, told = (job.to_epoch, *job.later), job.from_epoch
    for rung, level in enumerate(levels, job.rung):
        for epoch in range(told + 1, level + 1):
            yield Event(kind="epoch", number=job.number, epoch=epoch, values=_values(places[epoch - 1])[0])
        yield Event(
            kind="rung",
            number=job.number,
            rung=rung,
            epoch=level,
            values=_values(places[level - 1])[0],
            curve=tuple({"epoch": float(epoch), **_values(places[epoch - 1])[0]} for epoch in range(told + 1, level + 1)),
            checkpoint=f"checkpoints/{job.number}/{level}",
        )
        told = level


def _values(place: Place) -> tuple[dict[str, float], dict[str, float]]:
    """What training tells, and what is known before."""
    error, latency, size = place
    return {"error": error, "accuracy": 1 - error}, {"log_latency": latency, "log_bytes": size}
