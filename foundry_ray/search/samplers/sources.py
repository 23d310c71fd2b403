"""Where proposals come from, but for generations and the grid: points drawn evenly, Sobol points, and models of what was observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from foundry_ray.search.points import ends
from foundry_ray.search.samplers import kinds
from foundry_ray.search.samplers.asking import Asking
from foundry_ray.search.samplers.observing import Observation, Observer
from foundry_ray.search.samplers.proposal import Proposal, ask_seed, hashed
from foundry_ray.search.samplers.window import Window
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import Objective, SearchSpace

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

MAX_OBSERVATIONS: Mapping[kinds.Kind, int] = {"tpe": 500, "bohb": 500, "gp": 200}
"""What a model is told at most."""


class Source(Protocol):
    """Draws proposals. What it remembers between draws saves time and nothing else: each answer is a function of the records.

    Attributes:
        num_draws: How often a trial's proposal is drawn here; after that, evenly drawn ones stand in.
        avoids_tried: Whether a point that a trial has already is drawn again.
    """

    num_draws: int
    avoids_tried: bool

    def update(self, records: Mapping[int, TrialRecord], changed: Sequence[int]) -> None:
        """Take note of the records that are new or changed since the last call."""

    def draw(self, number: int, attempt: int) -> Proposal:
        """Parameters of trial `number`, drawn for the `attempt`-th time."""


class Uniform:
    """Points drawn evenly, on the scale of each parameter."""

    num_draws = 1
    avoids_tried = True

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective], *, seed: int) -> None:
        self._asking = Asking(space, len(objectives))
        self._seed = seed

    def update(self, records: Mapping[int, TrialRecord], changed: Sequence[int]) -> None:
        """Nothing that happened matters."""

    def draw(self, number: int, attempt: int) -> Proposal:
        """A point that depends on seed, number and attempt alone."""
        self._asking.show([])
        sampler = kinds.make("random", seed=ask_seed(self._seed, number, attempt), num_params=0)
        return Proposal(params=self._asking.ask(sampler, number=number)[0])


class Sobol:
    """Point `number - 1` of a Sobol sequence that the study's seed scrambles. The first trial is drawn evenly, as Optuna has it.

    A point that cannot be used gives way to the one in the same place of another scrambling.
    """

    num_draws = 20
    avoids_tried = True

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective], *, seed: int) -> None:
        self._asking = Asking(space, len(objectives))
        self._seed = seed
        everything = Observation(number=0, params={param.name: ends(param)[0] for param in space.params})
        self._axes = self._asking.trial(everything, [0.0] * len(objectives))
        self._counters: dict[int, str] = {}

    def update(self, records: Mapping[int, TrialRecord], changed: Sequence[int]) -> None:
        """Nothing that happened matters."""

    def draw(self, number: int, attempt: int) -> Proposal:
        """A point that depends on seed, number and attempt alone."""
        if number == 0:
            return self._ask([], number, attempt)
        if attempt not in self._counters:  # Optuna counts its points under a name that only it can make
            self._asking.forget()
            self._ask([self._axes], number, attempt)
            self._counters[attempt] = next(key for key in self._asking.notes() if key.startswith("qmc:"))
        self._asking.note(self._counters[attempt], number - 2)
        return self._ask([self._axes], number, attempt)

    def _ask(self, shown: Sequence[FrozenTrial], number: int, attempt: int) -> Proposal:
        self._asking.show(shown)
        first = kinds.make("random", seed=ask_seed(self._seed, number, attempt), num_params=0)
        sampler = kinds.make_sobol(seed=hashed(f"{self._seed}/sobol/{attempt}"), first=first)
        return Proposal(params=self._asking.ask(sampler, number=number)[0])


class Model:
    """TPE, BOHB's rule, or a Gaussian process, fitted to the trials at one rung.

    BOHB (arXiv 1807.01774, algorithm 2) is TPE over all parameters at once, at the highest rung with enough results; a third of its proposals,
    rho in the paper, is drawn evenly, so that no region is given up for good. The densities and how trials are split between them are Optuna's.
    """

    avoids_tried = True

    def __init__(self, kind: kinds.Kind, space: SearchSpace, objectives: Sequence[Objective], *, seed: int) -> None:
        self.num_draws = 3 if kind == "gp" else 10
        self._kind = kind
        self._seed = seed
        self._num_params = len(space.params)
        self._asking = Asking(space, len(objectives))
        self._observer = Observer(objectives, enough=kinds.num_enough(kind, self._num_params))
        self._window = Window(MAX_OBSERVATIONS[kind], len(objectives))
        self._uniform = Uniform(space, objectives, seed=seed)

    def update(self, records: Mapping[int, TrialRecord], changed: Sequence[int]) -> None:
        """Observe what is new."""
        numbers = self._observer.update(records, changed)
        self._window.update(self._observer.found, numbers)

    def draw(self, number: int, attempt: int) -> Proposal:
        """What the model thinks is best, or for BOHB every third time any point."""
        if self._kind == "bohb" and hashed(f"{self._seed}/bohb/{number}") % 3 == 0:
            return self._uniform.draw(number, attempt)
        self._asking.show(self._asking.trials([self._observer.found[one] for one in self._window.chosen()]))
        sampler = kinds.make(self._kind, seed=ask_seed(self._seed, number, attempt), num_params=self._num_params)
        return Proposal(params=self._asking.ask(sampler, number=number)[0])
