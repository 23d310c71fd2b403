"""Who goes on: asynchronous successive halving as pure functions (facts -> decision).

`promotable` is the `get_job` rule of ASHA (arXiv 1810.05934, algorithm 2): from the highest rung down, a trial among the best
1/eta of all that reached a rung, which has not gone on yet, goes on now. With several objectives "best" is non-dominated sorting
with epsilon-net order, which makes it MO-ASHA (arXiv 2106.12639). `finalist` is an addition at the end of a study: with few
trials 1/eta of 1/eta is a single one, and a policy needs several finished trials to choose among.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from foundry_ray.config import SchedulerConfig
from foundry_ray.search import pareto


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """All trials that reached one rung, in the order of their numbers.

    Attributes:
        points: Losses by trial number, as reported at this rung.
        gone_on: Numbers that were sent on to the next rung, or can never be (their process failed).
    """

    points: Mapping[int, tuple[float, ...]]
    gone_on: AbstractSet[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Trial `number` goes on from rung `from_rung` (an index, 0 is the lowest) to the next one."""

    number: int
    from_rung: int


def resources(config: SchedulerConfig) -> tuple[int, ...]:
    """Epochs at the end of each rung; without a scheduler there is one rung, the last."""
    return config.rungs if config.kind == "asha" else config.rungs[-1:]


def promotable(rungs: Sequence[Rung], reduction_factor: float) -> Promotion | None:
    """The promotion that is due now, or None. `rungs` are those from which one can go on: all but the last."""
    for index in reversed(range(len(rungs))):
        for number in best(rungs[index], reduction_factor):
            if number not in rungs[index].gone_on:
                return Promotion(number=number, from_rung=index)
    return None


def best(rung: Rung, reduction_factor: float) -> list[int]:
    """The best floor(n / reduction_factor) trials of a rung, best first."""
    count = int(len(rung.points) / reduction_factor)
    if not count:
        return []
    numbers = sorted(rung.points)
    return [numbers[index] for index in pareto.order([rung.points[number] for number in numbers])[:count]]


def finalist(rungs: Sequence[Rung], ranking: Sequence[int], *, num_finalists: int, wanted: int) -> Promotion | None:
    """Who goes on although no rung's share is left, so that a study ends with `wanted` finished trials, or None.

    Args:
        rungs: As for `promotable`.
        ranking: Trial numbers as the study's policy would prefer them, best first.
        num_finalists: Trials that are finished, or on their way through the last rung.
        wanted: How many there should be.
    """
    if num_finalists >= wanted:
        return None
    for index in reversed(range(len(rungs))):
        waiting = [number for number in ranking if number in rungs[index].points and number not in rungs[index].gone_on]
        if waiting:
            return Promotion(number=waiting[0], from_rung=index)
    return None
