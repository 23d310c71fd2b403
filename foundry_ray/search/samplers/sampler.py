"""What to try next: a pure function of the study so far.

The proposal of trial k is drawn with the random state hash(seed, k), from the records alone; so a resumed study proposes what the unbroken one
would. A proposal that breaks a relation of the space is drawn again, and so is one that a trial has already, where the kind of sampler lets it.
Leaves to `sources`, `generations` and `grid` how a point is drawn, and to `observing` what a sampler gets to see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foundry_ray.errors import SearchSpaceError
from foundry_ray.search import relations
from foundry_ray.search.samplers import grid
from foundry_ray.search.samplers.kinds import Kind
from foundry_ray.search.samplers.proposal import Proposal
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import Objective, SearchSpace

if TYPE_CHECKING:
    from foundry_ray.search.samplers.memory import Memory

MAX_DRAWS = 2000
"""Points that are drawn for one trial where relations are broken: a space in which fewer keep them cannot be searched."""
NUM_UNTRIED_DRAWS = 10
"""Evenly drawn points among which an untried one is looked for when a sampler only repeats what was tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Proposes trial `number` from the records of those before it.

    Attributes:
        kind: `tpe` (arXiv 2304.11127; with several objectives MOTPE, doi 10.1145/3377930.3389817), `gp` (a Gaussian process; logEI, arXiv 2310.20708,
            or logEHVI, 2006.05078), `cmaes` (1604.00772), `nsga2` (doi 10.1109/4235.996017), `bohb` (1807.01774), `qmc` (scrambled Sobol points),
            `random`, or `grid`.
        objectives: What is wanted, most important first.
        seed: The study's seed.
    """

    kind: Kind
    space: SearchSpace
    objectives: tuple[Objective, ...]
    seed: int
    _relations: tuple[relations.Relation, ...] = field(init=False, repr=False, compare=False)
    _memory: Memory = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from foundry_ray.search.samplers.memory import Memory

        object.__setattr__(self, "_relations", relations.of(self.space))
        object.__setattr__(self, "_memory", Memory(self.kind, self.space, self.objectives, seed=self.seed))

    @property
    def size(self) -> int | None:
        """How many points there are to propose, each once; None where there is no end to them."""
        source = self._memory.source
        return source.num_points if isinstance(source, grid.Grid) else None

    def propose(self, records: Mapping[int, TrialRecord], number: int) -> Proposal:
        """The parameters of trial `number`; equal arguments give equal answers.

        Raises:
            SearchSpaceError: No point was found that keeps the relations, or the grid has none left.
        """
        self._memory.update(records)
        source, tried = self._memory.source, self._memory.tried
        repeated: Proposal | None = None
        for attempt, proposal in enumerate(self._memory.draws(number, at_most=MAX_DRAWS)):
            if not all(relation.holds(proposal.params) for relation in self._relations):
                continue
            if not source.avoids_tried or proposal.params not in tried:
                return proposal
            repeated = repeated or proposal
            if attempt >= source.num_draws + NUM_UNTRIED_DRAWS:
                break
        if repeated is None:
            message = f"none of {MAX_DRAWS:,} points drawn for trial {number} keeps {' and '.join(map(repr, self.space.relations))}, wanted one."
            raise SearchSpaceError(message, hint="loosen a relation, or narrow the ranges of its parameters to where it holds.")
        return repeated
