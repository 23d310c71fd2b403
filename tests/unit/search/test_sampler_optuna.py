"""With every trial reported in order, and no rule of ours applying, a proposal is what Optuna's own study proposes: the same bits."""

from __future__ import annotations

import optuna
import pytest

from foundry_ray.search import pareto
from foundry_ray.search.points import limits
from foundry_ray.search.samplers import Kind, ask_seed, generations, kinds
from foundry_ray.search.samplers.proposal import hashed
from foundry_ray.types import Param, Scalar, SearchSpace, TrialState
from tests.unit.search import _sampling as small


def _plain(kind: Kind, number: int, num_params: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler, seeded for this ask as ours is."""
    if kind == "qmc":
        return kinds.make_sobol(seed=hashed("3/sobol/0"), first=optuna.samplers.RandomSampler(seed=ask_seed(3, number)))
    return kinds.make(kind, seed=ask_seed(3, number), num_params=num_params)


def _suggested(trial: optuna.Trial, param: Param) -> Scalar:
    if param.kind == "categorical":
        choice: Scalar = trial.suggest_categorical(param.name, list(param.choices))
        return choice
    low, high = limits(param)
    if param.kind == "int":
        return int(trial.suggest_int(param.name, int(low), int(high), step=int(param.step or 1), log=param.log))
    return float(trial.suggest_float(param.name, low, high, step=param.step, log=param.log))


@pytest.mark.parametrize(
    ("kind", "num_objectives", "num_trials"),
    [
        ("random", 1, 12),
        ("qmc", 1, 20),
        ("qmc", 3, 12),
        ("tpe", 1, 50),
        ("tpe", 3, 40),
        ("nsga2", 1, 70),
        ("nsga2", 3, 90),
        ("cmaes", 1, 60),
        ("gp", 1, 12),
        ("gp", 2, 12),
    ],
)
def test_proposals_are_those_of_a_plain_optuna_study(kind: Kind, num_objectives: int, num_trials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations.Nsga2, "avoids_tried", False)  # its children are often the image of a parent, which we draw again
    space: SearchSpace = small.NUMBERS if kind == "cmaes" else small.PLAIN
    objectives = small.OBJECTIVES[:num_objectives]
    ours = small.sampler(kind, space, objectives, seed=3)
    study = optuna.create_study(directions=["minimize"] * num_objectives)
    records = {}
    for number in range(num_trials):
        proposal = ours.propose(records, number)
        study.sampler = _plain(kind, number, len(space.params))
        trial = study.ask()
        plain = {param.name: _suggested(trial, param) for param in space.params}
        assert proposal.params == {name: round(value, 12) if name == "ratio" else value for name, value in plain.items()}
        values = small.worth(proposal.params)
        study.tell(trial, list(pareto.losses(values, objectives)))
        records[number] = small.record(number, proposal.params, values, attrs=proposal.attrs, state=TrialState.COMPLETE)
