"""What a scheduler is told of an event: the facts of `schedulers.facts`, while a study runs and when it is replayed alike. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from foundry_ray.search import pareto
from foundry_ray.search.events import Event
from foundry_ray.search.schedulers.facts import Asked, Fact, Left, Reached, Started
from foundry_ray.search.state import StudyState, TrialRecord
from foundry_ray.types import Objective, TrialState


def facts(event: Event, state: StudyState, objectives: Sequence[Objective], *, were_out: Container[int] = ()) -> Iterator[Fact]:
    """The facts that an event adds, after it was applied to the state.

    Args:
        were_out: Trials that were infeasible before it happened.
    """
    number = event.number
    if event.kind == "ask":
        yield Asked(number=number, rung=event.rung, bracket=event.bracket, params=event.params)
    elif event.kind == "adopt":
        yield from _adopted(state.records[number], objectives)
    elif event.kind == "rung":
        yield _reached(state.records[number], event.rung, objectives)
    elif event.kind == "start":
        yield Started(number=number, rung=event.rung)
    elif event.kind == "exploit":
        yield Started(number=number, rung=event.rung, params=event.params)
    elif event.kind == "measured":
        for one in state.sharing_graph(number):
            yield from _measured(state.records[one], objectives, was_out=one in were_out)
    elif event.kind in ("duplicate", "dominated", "infeasible", "failed", "postponed"):
        yield Left(number=number, reason=event.kind)


def _adopted(record: TrialRecord, objectives: Sequence[Objective]) -> Iterator[Fact]:
    """As if it had been begun here, and sent on from rung to rung."""
    number = record.trial.number
    yield Asked(number=number, rung=0, params=record.trial.params)
    for before, rung in zip((None, *record.by_rung), record.by_rung, strict=False):
        if before is not None:
            yield Started(number=number, rung=rung)
        yield _reached(record, rung, objectives)
    if record.trial.state is TrialState.INFEASIBLE:
        yield Left(number=number, reason="infeasible")


def _measured(record: TrialRecord, objectives: Sequence[Objective], *, was_out: bool) -> Iterator[Fact]:
    """What it reported with these parameters, with its latency on this device. Who is a candidate again comes back to where it was."""
    number, rungs = record.trial.number, [rung for rung in sorted(record.by_rung) if rung >= record.own_from]
    if was_out and record.trial.state is not TrialState.INFEASIBLE and rungs:
        yield Started(number=number, rung=rungs[-1])
    for rung in rungs:
        yield _reached(record, rung, objectives)
    if record.trial.state is TrialState.INFEASIBLE:
        yield Left(number=number, reason="infeasible")


def _reached(record: TrialRecord, rung: int, objectives: Sequence[Objective]) -> Reached:
    first = objectives[:1]
    curve = tuple((int(row["epoch"]), pareto.losses({**record.known, **row}, first)[0]) for row in record.trial.curve)
    return Reached(number=record.trial.number, rung=rung, losses=pareto.losses(record.by_rung[rung], objectives), curve=curve)
