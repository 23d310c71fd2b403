"""What a sampler makes of the records that it is shown, kept between proposals to save time: no answer depends on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from foundry_ray.search.samplers.generations import CmaEs, Nsga2
from foundry_ray.search.samplers.grid import Grid
from foundry_ray.search.samplers.kinds import Kind
from foundry_ray.search.samplers.proposal import Proposal
from foundry_ray.search.samplers.sources import Model, Sobol, Source, Uniform
from foundry_ray.search.samplers.tried import Tried
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import Objective, SearchSpace


class Memory:
    """One study, as far as it was shown.

    Attributes:
        source: Where proposals are drawn.
        tried: The points that the trials have.
    """

    def __init__(self, kind: Kind, space: SearchSpace, objectives: Sequence[Objective], *, seed: int) -> None:
        self._of = (kind, space, objectives, seed)
        self._forget()

    def update(self, records: Mapping[int, TrialRecord]) -> None:
        """Take note of the records that are other objects than before: what changes is replaced, never altered."""
        changed = [number for number, record in records.items() if self._seen.get(number) is not record]
        self._seen.update((number, records[number]) for number in changed)
        if len(self._seen) > len(records):  # some are gone: these are the records of another study
            self._forget()
            self.update(records)
            return
        self.tried.update(records, changed)
        self.source.update(records, changed)

    def draws(self, number: int, *, at_most: int) -> Iterator[Proposal]:
        """Proposals for one trial: first those of the source, then evenly drawn ones in their stead."""
        for attempt in range(self.source.num_draws):
            proposal = self.source.draw(number, attempt)
            yield proposal
        for attempt in range(self.source.num_draws, at_most):
            yield replace(self._uniform.draw(number, attempt), attrs=proposal.attrs)

    def _forget(self) -> None:
        kind, space, objectives, seed = self._of
        self._seen: dict[int, TrialRecord] = {}
        self.tried = Tried()
        self._uniform = Uniform(space, objectives, seed=seed)
        self.source: Source = self._uniform
        if kind == "grid":
            self.source = Grid(space, seed=seed, tried=self.tried)
        elif kind == "qmc":
            self.source = Sobol(space, objectives, seed=seed)
        elif kind == "nsga2":
            self.source = Nsga2(space, objectives, seed=seed)
        elif kind == "cmaes":
            self.source = CmaEs(space, objectives, seed=seed)
        elif kind != "random":
            self.source = Model(kind, space, objectives, seed=seed)
