"""What to try next: Optuna's samplers behind ask/tell, made a pure function of the study so far.

Each proposal is made by a fresh Optuna study in memory, filled from the records, with the random state hash(seed, number). So a
resumed study proposes what the unbroken one would have. Decides what a sampler gets to see: the values at the highest rung
that enough trials reached (as BOHB, arXiv 1807.01774), broken constraints as constraints, running trials as running.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from foundry_ray.search import pareto
from foundry_ray.search.space import in_order, is_active
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import Objective, Param, Scalar, SearchSpace, TrialState

if TYPE_CHECKING:
    import optuna

MIN_RESULTS = 10
"""Results that a rung needs before a sampler learns from it: also the number of random trials that TPE starts with."""
MAX_OBSERVATIONS = 500
"""TPE's cost grows with what it is told: 12.7 ms per proposal at 1,000 trials, 114 ms at 10,000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Parameters for a new trial, and what the sampler wants to see again with its result."""

    params: Mapping[str, Scalar]
    attrs: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A trial as a sampler sees it: its losses, or None while it runs; `excess` > 0 where it broke a constraint."""

    params: Mapping[str, Scalar]
    losses: tuple[float, ...] | None = None
    excess: float = 0.0
    attrs: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Proposes trial `number` from the records of those before it.

    Attributes:
        kind: `tpe` (arXiv 2304.11127; with several objectives MOTPE), `nsga2`, or `random`.
        seed: The study's seed.
    """

    kind: Literal["tpe", "random", "nsga2"]
    space: SearchSpace
    objectives: tuple[Objective, ...]
    seed: int

    def propose(self, records: Mapping[int, TrialRecord], number: int) -> Proposal:
        """The parameters of trial `number`; equal arguments give equal answers."""
        seen = [] if self.kind == "random" else observations(records, self.objectives)
        study = self._study(ask_seed(self.seed, number), self._most_useful(seen))
        trial = study.ask()
        chosen: dict[str, Scalar] = {}
        for param in in_order(self.space.params):
            if is_active(param, chosen):
                chosen[param.name] = _suggest(trial, param)
        attrs = {
            name: value
            for name, value in study.get_trials(deepcopy=False)[-1].system_attrs.items()
            if isinstance(value, (bool, int, float, str)) and "generation" in name
        }
        return Proposal(params=chosen, attrs=attrs)

    def _study(self, seed: int, seen: Sequence[Observation]) -> optuna.Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        samplers = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed, n_startup_trials=MIN_RESULTS, constant_liar=True),
            "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
            "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        }
        study = optuna.create_study(directions=["minimize"] * len(self.objectives), sampler=samplers[self.kind]())
        distributions = {param.name: _distribution(param) for param in self.space.params}
        worst = _worst(seen, len(self.objectives))
        for one in seen:
            study.add_trial(_frozen(one, distributions, worst))
        return study

    def _most_useful(self, seen: Sequence[Observation]) -> Sequence[Observation]:
        """The best fifth of the limit and the newest: what TPE's two densities are made of. NSGA-II needs its whole generations."""
        if self.kind != "tpe" or len(seen) <= MAX_OBSERVATIONS:
            return seen
        finished = [index for index, one in enumerate(seen) if one.losses is not None and one.excess == 0]
        ranked = pareto.order([seen[index].losses or () for index in finished])
        kept = {finished[index] for index in ranked[: MAX_OBSERVATIONS // 5]}
        for index in reversed(range(len(seen))):
            if len(kept) >= MAX_OBSERVATIONS:
                break
            kept.add(index)
        return [seen[index] for index in sorted(kept)]


def ask_seed(seed: int, number: int) -> int:
    """Random state of the proposal of trial `number`, 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/ask/{number}".encode()).digest()[:4], "big")


def observations(records: Mapping[int, TrialRecord], objectives: Sequence[Objective]) -> list[Observation]:
    """What a sampler learns from, in the order of the trials.

    Values of different rungs do not compare, so all are taken at one: the highest that `MIN_RESULTS` trials reached, or the lowest. Trials that
    were stopped below it are left out.
    """
    rung = _fidelity(records)
    found = [_observe(records, records[number], rung, objectives) for number in sorted(records)]
    return [one for one in found if one is not None]


def _fidelity(records: Mapping[int, TrialRecord]) -> int:
    reached = [index for record in records.values() for index in record.by_rung]
    return max((index for index in set(reached) if reached.count(index) >= MIN_RESULTS), default=0)


def _observe(records: Mapping[int, TrialRecord], record: TrialRecord, rung: int, objectives: Sequence[Objective]) -> Observation | None:
    source = record if record.duplicate_of is None else records[record.duplicate_of]
    params, attrs = record.trial.params, record.attrs
    if rung in source.by_rung:
        losses = pareto.losses(source.by_rung[rung], objectives)
        if all(math.isfinite(value) for value in losses):
            return Observation(params=params, losses=losses, attrs=attrs)
    if record.trial.state is TrialState.INFEASIBLE:
        return Observation(params=params, losses=(), excess=record.excess or 1.0, attrs=attrs)
    if record.trial.state is TrialState.FAILED:
        return Observation(params=params, losses=(), excess=1.0, attrs=attrs)
    if source.trial.state is TrialState.RUNNING and not source.by_rung:
        return Observation(params=params, attrs=attrs)
    return None


def _worst(seen: Sequence[Observation], num_objectives: int) -> list[float]:
    """Losses to tell of a trial that has none: they do not count beside its broken constraint, but Optuna wants finite numbers."""
    known = [one.losses for one in seen if one.losses]
    return [max((losses[index] for losses in known), default=0.0) for index in range(num_objectives)]


def _frozen(one: Observation, distributions: Mapping[str, optuna.distributions.BaseDistribution], worst: Sequence[float]) -> optuna.trial.FrozenTrial:
    import optuna

    states = optuna.trial.TrialState
    return optuna.trial.create_trial(
        state=states.RUNNING if one.losses is None else states.COMPLETE,
        params=dict(one.params),
        distributions={name: distributions[name] for name in one.params},
        values=None if one.losses is None else list(one.losses or worst),
        system_attrs=dict(one.attrs),
        constraints=None if one.losses is None else {"excess": one.excess},
    )


def _suggest(trial: optuna.Trial, param: Param) -> Scalar:
    if param.kind == "categorical":
        return cast(Scalar, trial.suggest_categorical(param.name, list(param.choices)))
    low, high = _limits(param)
    if param.kind == "int":
        return int(trial.suggest_int(param.name, int(low), int(high), step=int(param.step or 1), log=param.log))
    value = float(trial.suggest_float(param.name, low, high, step=param.step, log=param.log))
    return round(value, 12) if param.step else value


def _distribution(param: Param) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if param.kind == "categorical":
        return distributions.CategoricalDistribution(list(param.choices))
    low, high = _limits(param)
    if param.kind == "int":
        return distributions.IntDistribution(int(low), int(high), step=int(param.step or 1), log=param.log)
    return distributions.FloatDistribution(low, high, step=param.step, log=param.log)


def _limits(param: Param) -> tuple[float, float]:
    """The range, its high end moved down onto the last step."""
    assert param.low is not None
    assert param.high is not None
    if not param.step:
        return param.low, param.high
    return param.low, round(param.low + math.floor((param.high - param.low) / param.step + 1e-9) * param.step, 12)
