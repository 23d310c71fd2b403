"""Optuna's samplers on a table, as Optuna runs them: each student is trained to its end, and only its last values are told."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import optuna

from benchmarks.search_table.candidates import Candidates
from benchmarks.search_table.table import Table
from foundry_ray.types import Param, SearchSpace

_POPULATION = 20
"""Of NSGA-II. Optuna's default of 50 would leave ten of 60 trials to evolution, the others to chance."""


class _OfTable(optuna.samplers.BaseSampler):  # type: ignore[misc]
    """Lets another sampler propose all parameters at once, and goes to the nearest free row from there."""

    def __init__(self, inner: optuna.samplers.BaseSampler, space: SearchSpace, candidates: Candidates) -> None:
        self._inner = inner
        self._distributions = {param.name: distribution(param) for param in space.params}
        self._candidates = candidates

    def infer_relative_search_space(self, study: optuna.Study, trial: Any) -> Mapping[str, Any]:
        return self._distributions

    def sample_relative(self, study: optuna.Study, trial: Any, search_space: Mapping[str, Any]) -> Mapping[str, Any]:
        together = self._inner.sample_relative(study, trial, self._inner.infer_relative_search_space(study, trial))
        alone = {name: one for name, one in search_space.items() if name not in together}
        return self._candidates.take({**together, **{name: self._inner.sample_independent(study, trial, name, one) for name, one in alone.items()}})

    def sample_independent(self, study: optuna.Study, trial: Any, param_name: str, param_distribution: Any) -> Any:
        raise AssertionError("all parameters are sampled together")

    def before_trial(self, study: optuna.Study, trial: Any) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(self, study: optuna.Study, trial: Any, state: Any, values: Any) -> None:
        self._inner.after_trial(study, trial, state, values)


def distribution(param: Param) -> Any:
    """What Optuna calls a parameter of ours."""
    if param.kind == "categorical":
        return optuna.distributions.CategoricalDistribution(list(param.choices))
    if param.kind == "int":
        return optuna.distributions.IntDistribution(int(param.low or 0), int(param.high or 0), step=int(param.step or 1), log=param.log)
    return optuna.distributions.FloatDistribution(param.low, param.high, step=param.step, log=param.log)


def trained(table: Table, space: SearchSpace, *, kind: Literal["random", "tpe", "nsga2"], seed: int, max_epochs: int) -> list[tuple[int, int]]:
    """(row, epoch) in the order of training."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    candidates = Candidates(space, table.rows)
    samplers = {
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=_POPULATION),
    }
    study = optuna.create_study(directions=["minimize"] * 3, sampler=_OfTable(samplers[kind](), space, candidates))
    seen: list[tuple[int, int]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while len(seen) < max_epochs and candidates.num_free:
            trial = study.ask({param.name: distribution(param) for param in space.params})
            row = candidates.number(trial.params)
            seen += [(row, epoch) for epoch in range(1, table.num_epochs + 1)]
            study.tell(trial, list(table.places[row][-1]))
    return seen
