"""What a study decides by: given once, when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from foundry_ray.config import BudgetConfig, SchedulerConfig
from foundry_ray.search import constraints
from foundry_ray.search.constraints import Constraint
from foundry_ray.search.policy import Policy
from foundry_ray.search.samplers import Proposal
from foundry_ray.search.state import RecipeOf, TrialRecord
from foundry_ray.types import Objective, SearchSpace


class Proposing(Protocol):
    """Whoever proposes parameters: `samplers.Sampler`, or another."""

    @property
    def size(self) -> int | None:
        """Points that there are to try, each once; None where there is no end to them."""

    def propose(self, records: Mapping[int, TrialRecord], number: int) -> Proposal:
        """The parameters of trial `number`; equal arguments give equal answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a study decides by.

    Attributes:
        space: With its objectives and its hard constraints.
        teacher_accuracy: On val.
        seed: The study's.
        trial_seed: Seed of every trial: all see the same batches, so that they differ by their parameters alone.
        max_failures: Deaths of a trial's process before the trial counts as failed.
        recipe_of: The recipe that parameters stand for.
        extends: Keys of the studies that this one goes on from.
    """

    space: SearchSpace
    scheduler: SchedulerConfig
    budget: BudgetConfig
    sampler: Proposing
    policy: Policy
    teacher_accuracy: float
    seed: int
    trial_seed: int
    max_failures: int
    recipe_of: RecipeOf
    extends: tuple[str, ...] = ()

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """By which trials are compared, the most important first."""
        return self.space.objectives

    @property
    def limits(self) -> tuple[Constraint, ...]:
        """The hard constraints."""
        return tuple(constraints.parse(text, where="search.constraints") for text in self.space.constraints)
