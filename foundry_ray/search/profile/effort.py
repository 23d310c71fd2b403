"""What a study is expected to take: its scheduler is played through on made-up results, one trial at a time, without a clock. Pure.

How many epochs a scheduler spends depends on its rule alone, as long as trials differ: the rule asks who is best and not by how much.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from foundry_ray.config import BudgetConfig
from foundry_ray.search.coordinator import NUM_FINALISTS
from foundry_ray.search.schedulers.facts import Asked, Begin, Decision, Exploit, GoOn, Reached, Scheduler, Started
from foundry_ray.types import Scalar, StudyEffort

MAX_PLAYED = 400
"""Trials that are played through at most: with more of them an average trial takes as many epochs."""
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """How a study goes as its scheduler has it.

    Attributes:
        num_trials: That are begun: those of the budget, or as many as the scheduler wants.
        epochs: That a trial takes in the mean until it is stopped or complete, its share of the finalists' included.
    """

    num_trials: int
    epochs: float


def play(scheduler: Scheduler, points: Iterator[Mapping[str, Scalar]], *, num_trials: int, num_objectives: int, seed: int) -> Played:
    """Go through a study of one worker.

    Args:
        scheduler: As it is at the beginning of a study.
        points: Parameters of trials, without end.
        num_trials: Of the budget.
        num_objectives: Losses of a result.
        seed: Of the made-up results.
    """
    game = _Game(scheduler, points, num_objectives=num_objectives, seed=seed)
    num_played = min(num_trials, MAX_PLAYED)
    while game.move(scheduler.next(can_ask=game.num_trials < num_played)):
        pass
    game.finish(NUM_FINALISTS)
    return Played(num_trials=num_trials if game.num_trials == num_played else game.num_trials, epochs=game.num_epochs / game.num_trials)


def expected_distinct(counts: Sequence[int], *, num_drawn: int, num_trials: int) -> float:
    """How many different trials there are to train among `num_trials`, as a sample has it.

    Within the sample that is the mean over all ways to choose so many of it; beyond it, each further trial is new as often as the sample has
    trials that it holds once (Good and Turing's estimate of what was not seen).

    Args:
        counts: How often each of the different trials that can be trained was drawn.
        num_drawn: Size of the sample, with those that cannot be trained.
        num_trials: Of the study.
    """
    if num_trials <= num_drawn:
        ways = math.comb(num_drawn, num_trials)
        return sum(1 - math.comb(num_drawn - count, num_trials) / ways for count in counts)
    new_ratio = sum(count == 1 for count in counts) / num_drawn
    return len(counts) + (num_trials - num_drawn) * new_ratio


def study_effort(
    played: Played, *, num_trained: float, epoch_s: float | None, prepare_s: float, num_workers: int | None, price: float
) -> StudyEffort:
    """What all trials take together.

    Args:
        played: How many, and how long they are.
        num_trained: Those of them that are trained; the others are built, and found to be known or not allowed.
        epoch_s: Seconds of an epoch on one worker, where it is known.
        prepare_s: Seconds to build, export and measure a student.
        num_workers: Workers at once, where it is known.
        price: Of a worker-hour.
    """
    worker_hours = None if epoch_s is None else (num_trained * played.epochs * epoch_s + played.num_trials * prepare_s) / _HOUR_S
    return StudyEffort(
        num_trials=played.num_trials,
        num_trained=num_trained,
        epochs_per_trial=played.epochs,
        epoch_s=epoch_s,
        prepare_s=prepare_s,
        num_workers=num_workers,
        worker_hours=worker_hours,
        hours=None if worker_hours is None or num_workers is None else worker_hours / num_workers,
        price=price,
        cost=None if worker_hours is None else worker_hours * price,
    )


def over_budget(effort: StudyEffort, budget: BudgetConfig) -> Iterator[str]:
    """A sentence for each limit of the budget that ends the study before its last trial."""
    limits = {
        "wall_time_s": (None if effort.hours is None else effort.hours * _HOUR_S, budget.wall_time_s),
        "worker_hours": (effort.worker_hours, budget.worker_hours),
        "cost": (effort.cost, budget.cost),
    }
    for key, (expected, limit) in limits.items():
        if expected is not None and limit is not None and expected > limit:
            yield (
                f"search.budget.{key} is {limit:g}, but {effort.num_trials} trials are expected to take {expected:.3g}: "
                f"it ends the study after about {round(effort.num_trials * limit / expected)} of them."
            )


class _Game:
    """A study of one worker: what is started has its result at once.

    Each trial has a quality of its own for each objective, and what it reports nears it: so good trials tend to stay good.
    """

    def __init__(self, scheduler: Scheduler, points: Iterator[Mapping[str, Scalar]], *, num_objectives: int, seed: int) -> None:
        self._scheduler = scheduler
        self._points = points
        self._random = random.Random(seed)
        self._num_objectives = num_objectives
        self._qualities: list[list[float]] = []
        self._reached: list[int] = []  # epochs by trial
        self.num_epochs = 0

    @property
    def num_trials(self) -> int:
        return len(self._reached)

    def move(self, decision: Decision) -> bool:
        """Carry out a decision; False where it starts nothing."""
        if isinstance(decision, Begin):
            number = self.num_trials
            self._qualities.append([self._random.random() for _ in range(self._num_objectives)])
            self._reached.append(0)
            self._scheduler.saw(Asked(number=number, rung=decision.rung, bracket=decision.bracket, params=next(self._points)))
            self._run(number, decision.rung)
            return True
        if isinstance(decision, (GoOn, Exploit)):
            params: Mapping[str, Scalar] = decision.params if isinstance(decision, Exploit) else {}
            self._scheduler.saw(Started(number=decision.number, rung=decision.rung, params=params))
            self._run(decision.number, decision.rung)
            return True
        return False

    def finish(self, wanted: int) -> None:
        """Send the trials that came furthest on to the end, until so many are complete."""
        levels = self._scheduler.levels
        num_complete = sum(reached == levels[-1] for reached in self._reached)
        for number, _ in self._scheduler.waiting()[: max(0, wanted - num_complete)]:
            self.num_epochs += levels[-1] - self._reached[number]

    def _run(self, number: int, rung: int) -> None:
        before, after = self._reached[number], self._scheduler.levels[rung]
        self.num_epochs += after - before
        self._reached[number] = after
        curve = tuple((epoch, self._loss(number, 0, epoch)) for epoch in range(1, after + 1))
        losses = (curve[-1][1], *(self._loss(number, index, after) for index in range(1, self._num_objectives)))
        self._scheduler.saw(Reached(number=number, rung=rung, losses=losses, curve=curve))

    def _loss(self, number: int, objective: int, epoch: int) -> float:
        return self._qualities[number][objective] + 1.0 / (1 + epoch)
