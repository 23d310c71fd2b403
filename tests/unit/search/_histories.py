"""Studies played through a scheduler, worker by worker, in an order that a seed decides."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from foundry_ray.search.schedulers.facts import Asked, Begin, Decision, Done, Exploit, Fact, GoOn, Left, Reached, Scheduler, Started, Wait

Losses = Callable[[int, int], tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a scheduler was asked, knowing these facts, and what it answered."""

    facts: tuple[Fact, ...]
    can_ask: bool
    decision: Decision


def play(scheduler: Scheduler, losses: Losses, *, seed: int, num_trials: int, num_slots: int = 3, left: Sequence[int] = ()) -> Iterator[Question]:
    """Run a study to its end. Trials of `left` leave instead of reporting for the first time."""
    source, facts, running, num_asked = random.Random(seed), [], [], 0

    def happen(fact: Fact) -> None:
        facts.append(fact)
        scheduler.saw(fact)

    while True:
        decision: Decision = Wait(why="no slot")
        if len(running) < num_slots:
            decision = scheduler.next(can_ask=num_asked < num_trials)
            yield Question(facts=tuple(facts), can_ask=num_asked < num_trials, decision=decision)
        if isinstance(decision, Begin):
            happen(Asked(number=num_asked, rung=decision.rung, bracket=decision.bracket, params={"lr": 0.01}))
            running.append((num_asked, decision.rung))
            num_asked += 1
        elif isinstance(decision, (GoOn, Exploit)):
            happen(Started(number=decision.number, rung=decision.rung, params=decision.params if isinstance(decision, Exploit) else {}))
            running.append((decision.number, decision.rung))
        elif running:
            number, rung = running.pop(source.randrange(len(running)))
            happen(Left(number=number, reason="failed") if number in left else _reached(scheduler, number, rung, losses))
        else:
            assert isinstance(decision, Done)
            return


def _reached(scheduler: Scheduler, number: int, rung: int, losses: Losses) -> Reached:
    epochs = range(1, scheduler.levels[rung] + 1)
    levels = [next(index for index, level in enumerate(scheduler.levels) if level >= epoch) for epoch in epochs]
    return Reached(
        number=number,
        rung=rung,
        losses=losses(number, rung),
        curve=tuple((epoch, losses(number, level)[0]) for epoch, level in zip(epochs, levels, strict=True)),
    )


def results_at(facts: Sequence[Fact], rung: int) -> dict[int, tuple[float, ...]]:
    """The losses of all that reached a rung, by number, in the order of their coming."""
    return {fact.number: fact.losses for fact in facts if isinstance(fact, Reached) and fact.rung == rung}


def gone_from(facts: Sequence[Fact], rung: int) -> set[int]:
    """Who went on from a rung, or left."""
    return {fact.number for fact in facts if (isinstance(fact, Started) and fact.rung > rung) or isinstance(fact, Left)}


def drawn_losses(seed: int, *, width: int, levels: int = 4) -> Losses:
    """Small whole numbers, so that there are ties; now and then one is missing. One function per seed."""

    def losses(number: int, rung: int) -> tuple[float, ...]:
        source = random.Random(f"{seed}/{number}/{rung}")
        drawn = tuple(float(source.randint(0, levels)) for _ in range(width))
        return (float("nan"), *drawn[1:]) if source.random() < 0.05 else drawn

    return losses
