"""Samplers that go by generations: NSGA-II and CMA-ES.

What a generation is bred from is worked out from the finished trials of those before, again whenever these change, and from nothing else: a
study that is resumed breeds what the unbroken one would. All trials are compared at the lowest rung, which every one of them reaches; at a
higher one, most of a generation would never count.

Optuna's classes are told of one or two generations at a time, so that an ask costs no more in a long study.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foundry_ray.search.samplers import kinds
from foundry_ray.search.samplers.asking import Asking, worst_losses
from foundry_ray.search.samplers.observing import Observation, Observer
from foundry_ray.search.samplers.proposal import Proposal, ask_seed
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import Objective, SearchSpace

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_NUM_PARENTS = 2
_ANY_SEED = 0
"""Where Optuna's class is only asked to select, or to learn: neither is random."""


class Nsga2:
    """NSGA-II (Deb et al. 2002), also for one objective. A trial that it did not propose counts as one of the first generation."""

    num_draws = 50
    avoids_tried = True
    KEY = "NSGAIISampler:generation"

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective], *, seed: int) -> None:
        self._seed = seed
        self._asking = Asking(space, len(objectives))
        self._generations = _Generations(objectives, key=self.KEY, default=0)
        self._elites: list[list[Observation]] = [[]]

    def update(self, records: Mapping[int, TrialRecord], changed: Sequence[int]) -> None:
        """Forget the elites of the generations whose ancestors changed."""
        del self._elites[self._generations.update(records, changed) + 1 :]

    def draw(self, number: int, attempt: int) -> Proposal:
        """A child of two of the elite of the generation before; where there are no two, any point."""
        generation = self._generations.last
        if len(self._generations.of(generation)) >= kinds.POPULATION:
            generation += 1
        while len(self._elites) <= generation:
            self._elites.append(self._select(len(self._elites)))
        siblings = self._generations.of(generation)
        if len(self._elites[generation]) < _NUM_PARENTS:  # the first generation, or one whose ancestors took over other weights, and are at it again
            self._asking.forget()
            self._asking.show(self._trials(siblings, generation=0))
        else:
            self._show_parents(generation, siblings)
        sampler = kinds.make("nsga2", seed=ask_seed(self._seed, number, attempt), num_params=0)
        params, _ = self._asking.ask(sampler, number=number)
        return Proposal(params=params, attrs={self.KEY: generation})

    def _show_parents(self, generation: int, siblings: Sequence[Observation]) -> None:
        """Let Optuna find the elite, and what was bred from it so far as the generation after.

        Optuna keeps the elite in the order of its selection for the first child, and in the order of the trials for all others.
        """
        self._select(generation)
        elite = self._elites[generation]
        if generation in self._generations.begun:
            elite = sorted(elite, key=lambda one: one.number)
        self._asking.show([*self._trials(elite, generation=0), *self._trials(siblings, generation=1)])

    def _select(self, generation: int) -> list[Observation]:
        """The parents of a generation: the best of the one before and of its own parents, which Optuna is shown as generation 0."""
        candidates = [*self._generations.of(generation - 1), *sorted(self._elites[generation - 1], key=lambda one: one.number)]
        by_number = {one.number: one for one in candidates}
        self._asking.forget()
        self._asking.show(self._trials(candidates, generation=0))
        sampler = kinds.make("nsga2", seed=_ANY_SEED, num_params=0)
        return [by_number[trial.number] for trial in sampler.get_parent_population(self._asking.study, 1)]

    def _trials(self, seen: Sequence[Observation], *, generation: int) -> list[FrozenTrial]:
        return self._asking.trials(seen, attrs={self.KEY: generation})


class CmaEs:
    """CMA-ES (arXiv 1604.00772) over numbers, for one objective. A trial that it did not propose teaches it nothing.

    A generation is the first trials of it to finish, as many as the population has, in the order of their numbers.
    """

    num_draws = 50
    avoids_tried = False  # points that round to one another are how it closes in on whole numbers
    KEY = "cma:generation"
    STATE = "cma:optimizer"

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective], *, seed: int) -> None:
        self._seed = seed
        self._asking = Asking(space, len(objectives))
        self._generations = _Generations(objectives, key=self.KEY, default=None)
        self._states: list[Mapping[str, object]] = [{}]

    def update(self, records: Mapping[int, TrialRecord], changed: Sequence[int]) -> None:
        """Forget the distributions that were learnt from what changed."""
        del self._states[self._generations.update(records, changed) + 1 :]

    def draw(self, number: int, attempt: int) -> Proposal:
        """A draw from the current distribution; any point until the first trial is finished."""
        while len(self._states) <= self._generations.last:
            learnt = self._ask(len(self._states) - 1, seed=_ANY_SEED, number=number)[1]
            state = {key: value for key, value in learnt.items() if key.startswith(self.STATE)}
            if not state:
                break
            self._states.append(state)
        params, notes = self._ask(len(self._states) - 1, seed=ask_seed(self._seed, number, attempt), number=number)
        return Proposal(params=params, attrs={self.KEY: notes[self.KEY]} if self.KEY in notes else {})

    def _ask(self, generation: int, *, seed: int, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Ask with what was learnt before this generation, and with its finished trials; where these are enough, Optuna learns from them."""
        seen = self._generations.of(generation)
        worst = worst_losses(seen, 1)[0]
        trials = [self._asking.trial(one, one.losses or [worst + one.excess], attrs={self.KEY: generation}) for one in seen]
        trials = trials or [self._asking.trial(one, [0.0], attrs={}) for one in self._generations.first()]
        if trials:
            trials[-1].system_attrs.update(self._states[generation])
        self._asking.show(trials)
        return self._asking.ask(kinds.make("cmaes", seed=seed, num_params=0), number=number)


class _Generations:
    """Finished observations by the generation that they were proposed in.

    Args:
        key: Under which the sampler notes the generation of a proposal.
        default: Generation of a trial that the sampler did not propose; None: it has none.

    Attributes:
        begun: Generations of which something was asked.
        last: The highest of which something is finished, 0 where nothing is.
    """

    def __init__(self, objectives: Sequence[Objective], *, key: str, default: int | None) -> None:
        self._observer = Observer(objectives, enough=None)
        self._key = key
        self._default = default
        self._members: defaultdict[int, dict[int, Observation]] = defaultdict(dict)
        self.begun: set[int] = set()
        self.last = 0

    def update(self, records: Mapping[int, TrialRecord], changed: Sequence[int]) -> int:
        """Take note of what is new. Returns the lowest generation whose finished members changed, or one above all."""
        self.begun |= {int(records[number].attrs[self._key]) for number in changed if self._key in records[number].attrs}
        touched = set()
        for number in self._observer.update(records, changed):
            generation, seen = records[number].attrs.get(self._key, self._default), self._observer.found.get(number)
            if generation is None:
                continue
            before = self._members[int(generation)].pop(number, None)
            if seen is not None and not seen.is_running:
                self._members[int(generation)][number] = seen
                touched.add(int(generation))
            elif before is not None:
                touched.add(int(generation))
        self.last = max((generation for generation, members in self._members.items() if members), default=0)
        return min(touched, default=len(self._members) + self.last)

    def of(self, generation: int) -> list[Observation]:
        """The finished members of a generation, in the order of their numbers."""
        members = self._members.get(generation, {})
        return [members[number] for number in sorted(members)]

    def first(self) -> list[Observation]:
        """The finished observation with the lowest number, of whatever origin, if there is one."""
        found = self._observer.found
        return [found[number] for number in sorted(found) if not found[number].is_running][:1]
